"""A content of a page that no data stand behind: ten methods, 101 budgets, five exits, ten classes."""

import gzip
import json
from base64 import b64encode

import numpy as np

K, BUDGETS, CLASSES = 5, 101, 10
NAMES = ("max_prob", "entropy", "margin", "patience", "eenet", "jeidnn", "dqn", "temperature", "voting", "cost_aware")  # fmt: skip


def content(routing=False):
    """Return a content with an explorer and every kind of panel; `routing`: of models asked in any order."""
    rng = np.random.default_rng(0)
    explorer, panels = _explorer(rng, routing), _panels(rng)
    sentences = [
        "Leaving early by max_prob costs 38 % less than the full model and loses 0.1 points [-0.3, 0.1].",
        "The best mix of single exits loses 2.9 points at the same cost.",
        "With hindsight 61 % of the cost could be saved: the ceiling of any policy.",
    ]
    return {
        "kind": "cache", "title": "resnet56-cifar10", "subtitle": "4,000 test rows, 5 exits, cost in MFLOPs per sample",
        "verdict": {"pays": True, "headline": "Leaving early pays: 38 % of the cost saved at equal accuracy", "sentences": sentences},
        "notes": ["Budgets below 20.1 MFLOPs cannot be met: the first exit costs that much."],
        "made": {
            "command": "policyopt report cache/resnet56 --out report.html", "date": "2026-11-30",
            "versions": {"policyopt": "0.1.0", "numpy": "2.3.4", "plotly": "7.1.0"},
            "facts": [["Cache", "resnet56-cifar10"], ["Digest", "sha256:" + "3f2a" * 16], ["Fit rows", "6,000"], ["Test rows", "4,000"]],
        },
        "explorer": explorer, "panels": panels,
    }  # fmt: skip


def _explorer(rng, routing):
    costs = np.array([20.1, 45.2, 70.0, 101.3, 126.6])
    qualities = np.array([0.721, 0.842, 0.899, 0.927, 0.9342])
    budgets = np.linspace(18.0, 126.6, BUDGETS)
    pieces = ['{"policyopt": "policy", "rule": ', ', "budget": ', "}\n"]
    methods = []
    for i, name in enumerate(NAMES):
        skill, levels, at = 1.0 - 0.06 * i, [], []
        for budget in budgets:
            if budget < costs[0] + 2 * (i % 3):
                at.append(-1)
                continue
            if rng.random() < 0.25 and levels:
                at.append(len(levels) - 1)
                continue
            spent = (budget - costs[0]) / (costs[-1] - costs[0])
            cost = budget * (1 - 0.01 * rng.random())
            quality = (
                0.721
                + 0.2145 * (1 - np.exp(-(3 + 3 * skill) * spent))
                + 0.001 * rng.standard_normal()
            )
            share = np.diff(np.concatenate([[0], 1 - spent ** np.array([0.5, 0.8, 1.2, 2.0]), [1]]))
            share = np.maximum(share, 0) / np.maximum(share, 0).sum()
            tilt = share * np.exp(rng.normal(0, 0.35, (CLASSES, K)))
            pieces += [
                json.dumps({"name": name, "thresholds": share[:-1].tolist()}),
                json.dumps(float(budget)),
            ]
            two = len(levels) % 2 == 1
            around = lambda x, half: [float(x), float(x - half), float(x + half)]  # noqa: E731
            levels.append({
                "budget": float(budget), "cost": around(cost, 0.7), "quality": around(quality, 0.0078),
                "to_full": around(quality - qualities[-1], 0.004),
                "to_reference": None if name == "max_prob" else around(0.002 * (5 - i), 0.004),
                "expected_cost": around(budget, 0.6) if not two else [float(budget), None, None],
                "expected_quality": around(quality + 0.001, 0.006), "exit_share": share.tolist(),
                "by_class": (tilt / tilt.sum(axis=1, keepdims=True)).tolist(),
                "thresholds": None if routing else [[f"{0.99 - 0.1 * k - 0.3 * spent:.4f}" for k in range(K - 1)], *([["never", "0.9120", "0.8700", "always"]] if two else [])],
                "share": 0.372 if two and not routing else None,
                "ways": _ways(spent) if routing else None,
                "certificate": "With 95 % confidence at most 1 % of answers are lost to the full model; shown on 2,000 rows that chose nothing." if i == 0 else None,
                "file": [0, len(pieces) - 2, 1, len(pieces) - 1, 2],
            })  # fmt: skip
            at.append(len(levels) - 1)
        methods.append({
            "label": name, "title": f"auto: chose {name}" if i == 4 else name,
            "about": f"{name}: leaves as soon as the answer is sure enough, by the largest probability.",
            "at": at, "levels": levels,
            "command": ["policyopt fit cache/resnet56 --budget ", f" --method {name} --out policy.json"],
        })  # fmt: skip
    bound = 0.80 + 0.16 * (1 - np.exp(-6 * (budgets - 18) / 108))
    packed = gzip.compress(json.dumps(pieces).encode(), mtime=0)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    return {
        "unit": "MFLOPs", "word": "accuracy", "rows": 4000, "per": "sample",
        "exits": [{"name": f"exit {k}", "cost": float(costs[k]), "quality": float(qualities[k])} for k in range(K)],
        "cascade": routing, "classes": {"names": names, "rows": [400] * CLASSES, "dropped": 0},
        "full": {"cost": float(costs[-1]), "quality": [0.9342, 0.9261, 0.9415]}, "reference": "max_prob",
        "bound": bound.tolist(), "singles": np.interp(budgets, costs, qualities).tolist(),
        "budgets": budgets.tolist(), "start": 52, "chosen": "eenet", "methods": methods,
        "chunks": b64encode(packed).decode(),
    }  # fmt: skip


def _ways(spent):
    on = 0.9 * spent + 0.05
    return [
        {"path": [0], "share": 1.0, "stop": 1 - on}, {"path": [0, 1], "share": 0.7 * on, "stop": 0.5 * on},
        {"path": [0, 4], "share": 0.3 * on, "stop": 0.3 * on}, {"path": [0, 1, 3], "share": 0.12 * on, "stop": 0.12 * on},
        {"path": [0, 1, 4], "share": 0.08 * on, "stop": 0.08 * on},
    ]  # fmt: skip


def _panels(rng):
    x = np.linspace(0.05, 0.95, 10)
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x.tolist(),
        "y": (x**1.1).tolist(),
        "name": "exit 0",
        "line": {"color": "#0072B2"},
    }
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 1],
        "name": "calibrated",
        "line": {"color": "#000000", "dash": "dot"},
    }
    axes = {"xaxis": {"title": {"text": "confidence"}}, "yaxis": {"title": {"text": "share right"}}}
    heat = {"type": "heatmap", "z": rng.random((5, 10)).tolist(), "colorscale": "Blues"}
    columns = [
        {"name": "method", "kind": "text", "digits": 0, "title": "Method"},
        {"name": "cost", "kind": "number", "digits": 4, "title": "Realised cost"},
        {"name": "accuracy %", "kind": "percent", "digits": 2, "title": "Accuracy on test rows"},
        {"name": "to full", "kind": "points", "digits": 2, "title": "Points to the full model"},
    ]
    rows = [
        [n, 60.0 + i, [0.93 - 0.002 * i, 0.92, 0.94], -0.001 * i if i else None]
        for i, n in enumerate(NAMES)
    ]
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    items = [
        {
            "title": f"Row {i}",
            "text": "A cat that the first exit takes for a dog." if i % 2 else None,
            "image": f"data:image/png;base64,{pixel}",
            "facts": [["Label", "cat"], ["Left at", "exit 0"]],
        }
        for i in range(4)
    ]
    empty = {"figure": None, "views": None, "alt": "", "table": None, "items": None}
    table = {
        "columns": columns,
        "rows": rows * 2,
        "group": [i // 3 for i in range(10)] * 2,
        "budget": [60.0] * 10 + [80.0] * 10,
        "caption": "Test rows, best first.",
    }
    return [
        {**empty, "id": "calibration", "title": "Calibration", "words": "On the line, confidence is what it says.", "views": [["All rows", {"data": [line, ideal], "layout": axes}], ["Leavers", {"data": [ideal, line], "layout": axes}]], "alt": "Confidence against share of right answers: close to the diagonal."},
        {**empty, "id": "table", "title": "Methods by budget", "words": "Every method at a budget.", "table": table},
        {**empty, "id": "scores", "title": "Scores", "words": "Where scores lie.", "figure": {"data": [heat], "layout": {}}, "alt": "Scores by exit."},
        {**empty, "id": "changed", "title": "Changed rows", "words": "Rows whose answer changes.", "items": items},
    ]  # fmt: skip


def hostile(value, path=""):
    """Return a content whose every text that is shown is an attack, numbered."""
    kept = ("id", "kind", "word", "image", "chunks", "type", "color", "colorscale", "mode", "label", "reference", "chosen", "dash", "per")  # fmt: skip
    if isinstance(value, dict):
        return {k: v if k in kept else hostile(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, path) for v in value]
    if isinstance(value, str):
        return f"</script><img src=x onerror=ran(1)>{path}\u2028\"'&amp;<b>"
    return value
