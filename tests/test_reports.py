"""Files of which users reported that a tool was wrong or unclear: made anew here, by the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from sklearn.isotonic import isotonic_regression

import policyopt as po
from policyopt._costs import rising

K, N, C = 3, 600, 4
COSTS = ("--costs", "1,2,3", "--unit", "ms")


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(seed=0, gains=(1.0, 1.8, 2.6), n=N):
    """Logits (K, N, C) of exits that grow better, labels, a generator."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, n)
    gain = np.array(gains)[:, None, None]
    logits = rng.normal(size=(len(gains), n, C)) + gain * np.eye(C)[labels][None]
    return logits.astype("f4"), labels, rng


def records(run, *words):
    """Run a command that must succeed; its data."""
    code, out, err = run(*words, "--format", "json")
    assert code == 0, err
    return json.loads(out), err


def imported(run, file, *words, out="c"):
    code, _, err = run("import", file, "--out", out, *words, "--overwrite")
    assert code == 0, err
    return err


@pytest.mark.parametrize("unknown", [-1, -100])
def test_rows_without_a_label_are_left_out_and_counted(at, run, unknown):
    """As people leave them: ignored tokens, unjudged answers. One of them must not stop any command."""
    logits, labels, _ = made()
    np.savez("a.npz", logits=logits, labels=np.where(np.arange(N) % 100 == 0, unknown, labels))
    assert "6 of 600 rows have no label" in imported(run, "a.npz", *COSTS)
    told, _ = records(run, "info", "c")
    assert [split["labelled"] for split in told["splits"]] == [295, 299]
    for method in ("optimal_stopping", "max_prob:thresholds=joint", "eenet:max_epochs=2", "auto"):
        records(run, "fit", "c", "--budget", "2", "--method", method, "--out", "p.json")
        (found,), err = records(run, "evaluate", "p.json", "c")
        assert found["rows"] == 300 and found["labelled"] == 299 and found["accuracy"] > 0.7
        assert "1 of the 300 rows of split test have no label" in err
    _, err = records(run, "curve", "c", "--methods", "max_prob,margin", "--budgets", "3")
    assert "have no label" in err
    for words in (
        ("compare", "c", "--methods", "max_prob,margin", "--budgets", "3"),
        ("calibration", "c", "--budget", "2", "--out", "cal"), ("explain", "p.json", "c"),
        ("tune", "c", "--method", "max_prob", "--budget", "2", "--trials", "2"),
    ):  # fmt: skip
        records(run, *words)
    played, err = records(
        run, "simulate", "c", "--reward", "label", "--rounds", "20", "--repetitions", "2"
    )
    assert played[0]["accuracy"] > 0.6 and "have no label" in err


def test_labels_from_one_and_shuffled_labels_are_told(at, run):
    logits, labels, rng = made()
    labels = np.where(labels == 3, 2, labels)
    np.savez("one.npz", logits=np.where(np.arange(C) == 3, logits - 3, logits), labels=labels + 1)
    err = imported(run, "one.npz", *COSTS)
    assert "with 1 less they would be right in" in err and "numbered from 1, not 0" in err
    np.savez("shuffled.npz", logits=logits, labels=rng.permutation(labels))
    assert "numbered from 0, and in the order of the outputs?" in imported(
        run, "shuffled.npz", *COSTS
    )
    np.savez("right.npz", logits=logits, labels=labels)
    assert "guessing" not in imported(run, "right.npz", *COSTS)
    said = logits.argmax(axis=2)
    for name, truth in (
        ("one", labels + 1),
        ("shuffled", rng.permutation(labels)),
        ("right", labels),
    ):
        np.savez("records.npz", conf=rng.random((K, N)), pred=said, labels=truth)
        assert ("guessing" in imported(run, "records.npz", *COSTS)) == (name != "right")


def test_a_true_class_that_is_masked_flattens_no_answer(at, run):
    logits, labels, rng = made()
    masked = logits.copy()
    rows = np.flatnonzero(rng.random(N) < 0.25)
    masked[:, rows, labels[rows]] = -np.inf
    np.savez("masked.npz", logits=masked, labels=labels)
    assert f"{len(rows)} of 600 rows have a true class that some exit rules out" in imported(
        run, "masked.npz", *COSTS
    )
    reached = {}
    for method in (
        "max_prob",
        "optimal_stopping",
        "margin:answer=combined",
        "margin:answer=temperature",
    ):
        records(run, "fit", "c", "--budget", "2", "--method", method, "--out", "p.json")
        (found,), _ = records(run, "evaluate", "p.json", "c")
        reached[method] = found["accuracy"]
    assert min(reached.values()) > reached["max_prob"] - 0.05
    assert run("export", "p.json", "--to", "python", "--out", "exported")[0] == 0
    assert run("verify", "exported")[0] == 0


def test_measured_times_may_fall_by_noise(at, run):
    logits, labels, rng = made()
    times = np.cumsum(rng.lognormal(2.2, 0.3, (K, N)), axis=0)
    times[2, ::50] = times[1, ::50] - 1.0
    np.savez("times.npz", logits=logits, labels=labels, latency_ms=times)
    code, _, err = run("import", "times.npz", "--out", "c", "--costs", "latency_ms")
    assert code == 2 and "--cost-kind measured" in err and "Only if" in err and "added up" in err
    err = imported(run, "times.npz", "--costs", "latency_ms", "--cost-kind", "measured")
    assert "falls in 12 of 600 rows: smoothed" in err
    kept = po.open_cache("c").splits["pool"].array("cost:latency_ms")
    np.testing.assert_allclose(kept, [isotonic_regression(row) for row in times.T])
    err = imported(run, "times.npz", "--costs", "latency_ms", "--cost-kind", "standalone")
    assert "of each exit alone and added up" in err
    noise = np.random.default_rng(1).random((300, 9))
    np.testing.assert_allclose(rising(noise), [isotonic_regression(row) for row in noise])


def test_models_run_apart_are_exits_of_one_cache(at, run):
    """A file each: they are joined where that is said, and the message says how where it is not."""
    logits, labels, _ = made()
    for name, k, rows in (
        ("small", 0, slice(None)),
        ("big", 2, slice(None)),
        ("other", 2, slice(None, None, -1)),
    ):
        np.savez(f"{name}.npz", logits=logits[k], labels=labels[rows])
        np.savez(f"{name}3.npz", logits=logits[k : k + 1], labels=labels[rows])
    for files in (
        ("small.npz", "big.npz"),
        ("small3.npz", "big3.npz"),
        ("exit0=small3.npz", "exit1=big3.npz"),
    ):
        code, _, err = run("import", *files, "--out", "c", *COSTS[2:], "--costs", "1,9")
        there = " ".join(file.partition("=")[2] or file for file in files)
        assert code == 2 and f"--exits {there}, cheapest first" in err
    code, _, err = run("import", "--exits", "small.npz", "other.npz", "--out", "c")
    assert code == 2 and "at row " in err and "small.npz" in err and "other.npz" in err
    assert run("import", "--exits", "small.npz", "big.npz", "--out", "c", "--costs", "1,9")[0] == 0
    kept = po.open_cache("c")
    np.testing.assert_array_equal(
        kept.splits["pool"].array("outputs"), logits[[0, 2]].swapaxes(0, 1)
    )
    assert kept.metadata["names"] == ["small", "big"] and records(run, "info", "c")[0]["names"] == [
        "small",
        "big",
    ]
    records(run, "fit", "c", "--budget", "5", "--method", "max_prob", "--out", "p.json")
    for words in (("info", "c"), ("explain", "p.json", "c")):
        assert "0 small" in run(*words)[1] and "1 big" in run(*words)[1]
    for words in (
        ("evaluate", "p.json", "c"),
        ("curve", "c", "--methods", "max_prob", "--budgets", "2"),
    ):
        assert "(small, big)" in run(*words)[1]
    # New rows come apart, too, and without labels.
    np.savez("x.npz", logits=logits[0]), np.savez("y.npz", logits=logits[2])
    assert len(records(run, "run", "p.json", "x.npz", "y.npz")[0]) == N


def test_exits_that_have_names_are_shown_by_them(at, run, monkeypatch):
    """In every picture, whose labels are folded where names are long, and in every table."""
    logits, labels, _ = made()
    names = ["branch1", "meta-llama-Llama-3.1-8B-Instruct", "main"]
    for name, exit_ in zip(names, logits, strict=True):
        np.savez(f"{name}.npz", logits=exit_, labels=labels)
    imported(run, "--exits", *(f"{name}.npz" for name in names), *COSTS)
    drawn = {}

    def keep(figure, path):
        figure.draw_without_rendering()
        drawn[path.name] = "".join("".join(t.get_text().split()) for t in figure.findobj(Text))

    monkeypatch.setattr("policyopt._report.figures.save_figure", keep)
    assert run("fit", "c", "--budget", "2", "--method", "max_prob", "--out", "p.json")[0] == 0
    for line in (
        "curve c --methods max_prob --budgets 2 --out o", "explain p.json c --out e",
        "calibration c --policy p.json --maps platt --out o",
    ):  # fmt: skip
        code, out, err = run(*line.split())
        assert code == 0, err
        table = "".join(out.split())
        assert all(table.count(name) >= (3 if "explain" in line else 1) for name in names), line
    assert len(drawn) == 6
    for picture, text in drawn.items():
        assert all(name in text for name in names), picture


def test_a_cascade_of_texts_with_marks(at, run):
    """One table of answers, some missing, fits and is decided on; a column that waits for its role is told."""
    rng, models, texts = np.random.default_rng(0), ["haiku", "sonnet", "opus"], ["Oslo", "Rome", ""]
    lines = ["question_id,model,response,logprob,judge,cost_usd"]
    for q in range(200):
        for k, model in enumerate(models):
            mark, text = rng.uniform(0.3 * k, 1), texts[int(rng.integers(0, 3))]
            sure = f"{np.log(mark):.3f}" if text else ""
            lines.append(f"{q},{model},{text and f'{text} {q}'},{sure},{mark:.2f},{10**k * mark}")
    Path("a.csv").write_text("\n".join(lines))
    told = imported(run, "a.csv", "--cost-kind", "standalone")
    assert (
        "'judge' is not known: not used" in told and "--key group=KEY or --key quality=KEY" in told
    )
    assert "added up, e.g. " in told
    imported(run, "a.csv", "--cost-kind", "standalone", "--key", "quality=judge")
    records(run, "fit", "c", "--budget", "50%", "--method", "patience", "--out", "p.json")
    found, err = records(run, "run", "p.json", "a.csv")
    said = [line.split(",")[2] or None for line in lines[1:]]
    assert [r["prediction"] for r in found] == [said[3 * r["row"] + r["exit"]] for r in found]
    code, _, err = run("run", "p.json", "c")
    assert code == 2 and "`policyopt info`, `fit`, `evaluate` take it as it is" in err
    code, _, err = run("simulate", "c", "--policy", "ucb1", "--method", "berxit", "--rounds", "20")
    assert code == 2 and "--arms 11" in err


def test_lines_as_cats_writes_them(at, run):
    logits, labels, _ = made()
    names = ["neg", "neu", "pos", "mix"]
    with (at / "eval_preds.jsonl").open("w") as file:
        for i in range(N):
            said = [names[a] for a in logits[:, i].argmax(-1)]
            row = {
                "ind": i,
                "layer_logits": logits[:, i].round(4).tolist(),
                "predicted_labels": said,
                "patience": [0] * K,
            }
            print(
                json.dumps(
                    row | {"gold_label_ind": int(labels[i]), "gold_label": names[labels[i]]}
                ),
                file=file,
            )
    err = imported(run, "eval_preds.jsonl", "--costs", "1,2,3", "--unit", "layers")
    assert (
        "'patience' is not known" in err and "'gold_label' not used beside 'gold_label_ind'" in err
    )
    rows = po.open_cache("c").splits["pool"]
    np.testing.assert_array_equal(rows.array("labels"), labels)
    np.testing.assert_allclose(rows.array("outputs"), logits.swapaxes(0, 1), atol=1e-4)
    (at / "bench.jsonl").write_text(json.dumps({"turns": ["a"], "verdicts": [1, 0]}))
    code, _, err = run("import", "bench.jsonl", "--out", "d")
    assert code == 2 and "Got turns, verdicts" in err and "--key" in err


def test_labels_by_the_names_of_other_libraries(at, run):
    logits, labels, _ = made()
    for outputs in ("logits", "predictions"):
        for key in ("label_ids", "y", "y_true", "gt", "ground_truth"):
            np.savez("hf.npz", **{outputs: logits, key: labels})
            assert f"'{key}' read as labels" in imported(run, "hf.npz", *COSTS)
            np.testing.assert_array_equal(po.open_cache("c").splits["pool"].array("labels"), labels)
    np.savez("own.npz", logits=logits, klass=labels, weights=labels[:5])
    last = [
        line for line in imported(run, "own.npz", *COSTS).splitlines() if line.startswith("note")
    ][-1]
    assert (
        "NO LABELS" in last
        and "--key labels=KEY" in last
        and "klass" in last
        and "weights" not in last
    )
    imported(run, "own.npz", *COSTS, "--key", "labels=klass")
    assert records(run, "info", "c")[0]["splits"][0]["labelled"] == 300
    np.savez("odd.npz", scores=logits, klass=labels)
    code, _, err = run("import", "odd.npz", "--out", "d")
    assert code == 2 and "--key outputs=scores" in err and "klass (600,)" in err


def test_one_message_per_cause(at, run):
    """Shapes that are no (K, N, C): what is missing is told of each; each step is tried in docs/layouts.md."""
    logits, labels, rng = made()
    b, real = rng.integers(0, 2, N), rng.normal(3, 1, N)
    z = rng.normal(size=(K, N)) + np.array([[1], [2], [3]]) * (2 * b - 1)
    sigmoids, sure = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-np.abs(z)))
    tokens = {"logits": rng.normal(size=(K, 50, 7, C)), "labels": rng.integers(0, C, (50, 7))}
    for arrays, kind, said in (
        ({"logits": z, "labels": b}, "logit", "read as kind logit"),
        ({"probs": sigmoids, "labels": b}, "probability", "read as kind probability"),
        ({"probs": sure, "labels": b}, None, "how sure an answer is, --key conf=KEY"),
        ({"logits": z.T, "labels": b}, None, "--kind logit"),
        ({"logits": z, "labels": 2 * b - 1}, None, "give (labels + 1) // 2"),
        (
            {"logits": logits[0], "labels": labels},
            None,
            "(N, C) is C numbers of one exit or model.*--exits A B",
        ),
        (tokens, None, "np.repeat(np.arange(50), 7)"),
        (
            {"logits": (real + z)[..., None], "labels": real},
            None,
            "--kind regression --error-scale",
        ),
        ({"logits": real + z, "labels": real}, None, "--kind regression --error-scale"),
    ):
        np.savez("a.npz", **arrays)
        code, _, err = run("import", "a.npz", "--out", "c", "--overwrite", "--costs", "1,2,3")
        assert code == (0 if kind else 2) and all(part in err for part in said.split(".*")), err
        assert kind is None or po.open_cache("c").kind == kind
        assert "[0, z]" not in err and ("--kind logit" not in err or "real" not in said)
    np.savez("b.npz", logits=-z, labels=1 - b)
    np.savez("a.npz", logits=z, labels=b)
    assert run("import", "fit=a.npz", "test=b.npz", "--out", "two")[0] == 0
    assert po.open_cache("two").kind == "logit" and set(po.open_cache("two").splits) == {
        "fit",
        "test",
    }


def test_step_refuses_probabilities_for_logits():
    """Many at once, and one by one after four; `decide` always did."""
    logits, labels, _ = made()
    outputs = logits.swapaxes(0, 1)
    policy = po.fit(po.from_arrays(outputs, labels, costs=[1, 2, 3]), 2.0, "max_prob").policy
    odds = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    odds /= odds.sum(axis=2, keepdims=True)
    for rows in (odds[:300, 0], odds[:4, 0]):
        with pytest.raises(po.InputError, match="before softmax"):
            policy.step(0, rows, policy.start(range(len(rows))))
    for i in range(3):
        policy.step(0, odds[i, 0], policy.start(i))
    with pytest.raises(po.InputError, match="before softmax"):
        policy.step(0, odds[3, 0], policy.start(3))
    for i in range(20):
        policy.step(0, outputs[i, 0], policy.start(i))


def test_saturated_confidences_keep_the_budget_on_their_own_rows(at, run):
    """Most are exactly 1, 300 rows fit, costs differ per query: what is deployed costs what is stated."""
    rng = np.random.default_rng(0)
    chance = rng.random((4, 300)) * 0.4 + 0.6 * rng.random(300)
    right = chance < np.quantile(chance, [0.9, 0.7, 0.87, 0.95], axis=1).diagonal()[:, None]
    conf = np.where(
        rng.random((4, 300)) < np.where(right, 0.76, 0.45),
        1.0,
        np.exp(-rng.exponential(4.0, (4, 300))),
    )
    cost = np.array([0.043, 0.255, 0.255, 0.72])[:, None] * rng.lognormal(0, 0.07, (1, 300)) * 1e-3
    data = po.from_arrays(
        splits={"fit": {
            "confidence": conf.T, "correct": right.T, "prediction": np.where(right, 0, 1).T,
            "sample_costs": {"usd": cost.T},
        }}, cost_kind="standalone", unit="USD",
    )  # fmt: skip
    for method in ("optimal_stopping", "fitted_q", "max_prob"):
        for budget in (2e-4, 4e-4, 8e-4):
            fitted = po.fit(data, budget, method)
            spent = po.evaluate(fitted, data, split="fit").cost.mean()
            assert spent <= 1.05 * budget, (method, budget, spent)


def test_thresholds_on_the_entropy_are_taken_and_told_in_nats(at, run):
    """Papers leave below H nats; the score is 1 - H / log C, left above: 0.3 means another thing on each."""
    logits, labels, _ = made()
    np.savez("a.npz", logits=logits, labels=labels)
    imported(run, "a.npz", *COSTS)
    told, _ = records(run, "methods", "entropy")
    assert "1 - H / log C" in told[0]["scale"] and "nats<" in told[0]["scale"]
    for given, nats in (("0.3,0.3", 0.7 * np.log(C)), ("nats<0.3,0.3", 0.3), ("nats<0.3", 0.3)):
        words = ("--method", "entropy", "--set", f"thresholds={given}", "--out", "p.json")
        _, err = records(run, "fit", "c", *words)
        assert "1 - H / log C" in err and f"in entropy H in nats: {nats:.4f} {nats:.4f}" in err
        for command in (("explain", "p.json", "c"), ("info", "p.json")):
            code, out, err = run(*command)
            assert code == 0 and f"nats: {nats:.4f}" in " ".join((out + err).split())
    odds = np.exp(logits)
    odds /= odds.sum(axis=2, keepdims=True)
    below = -(odds * np.log(odds)).sum(axis=2) < 0.3
    below[2] = True
    found = po.load_policy("p.json").decide(logits.swapaxes(0, 1))
    np.testing.assert_array_equal(found.exit, below.argmax(axis=0))
    for method in ("max_prob", "berxit"):
        code, _, err = run("fit", "c", "--method", method, "--set", "thresholds=nats<0.3")
        assert code == 2 and "nats" in err
    given = ("--method", "cbt", "--set", "class_thresholds=0.9,0.8,0.9,0.7", "--out", "p.json")
    assert (
        "confidence less the offset of the class predicted" in records(run, "fit", "c", *given)[1]
    )
    for wrong in ("nats<", "nats<-1", "H<0.3", "nats<nan"):
        code, _, err = run("fit", "c", "--method", "entropy", "--set", f"thresholds={wrong}")
        assert code == 2 and "thresholds=nats<0.3,0.3" in err, wrong
