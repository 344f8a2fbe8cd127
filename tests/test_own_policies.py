"""Policies written outside the package, as docs/own_policies.md shows them: one file each, and all works."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from rules import SCORES, C, K
from synthetic import cache, outputs

import policyopt as po
from policyopt._export.symbolic import trace_policy
from policyopt._methods.registry import MethodSpec
from policyopt._thresholds.degenerate_scores import collapse
from policyopt.runtime import CheckError, Mixture
from policyopt.runtime._parameters import numbers
from policyopt.runtime._scores import RULES, make_rule

TARGETS = ["python", "c", "onnx"]


def blocks(root):
    text = (root / "docs" / "own_policies.md").read_text()
    found = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", text, re.M | re.S)
    return dict(found)


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """An empty folder with the two short files of the page, and somebody's logits."""
    at = tmp_path_factory.mktemp("own")
    lines = {name: len(text.splitlines()) for name, text in blocks(root).items()}
    assert lines["gap.py"] < 15 and lines["linear_trust.py"] < 60 and len(lines) == 2
    for name, text in blocks(root).items():
        (at / name).write_text(text)
    logits, labels = outputs(800, exits=3)
    np.savez(at / "logits.npz", logits=logits.swapaxes(0, 1), labels=labels)
    return at


class Numpys(po.ScoreRule):
    """What numpy's users write; its fields have narrow ranges."""

    name, required_columns = "numpys", frozenset({"log_prob", "features"})
    offset: list = po.array("K", over=0, whole=True)
    w: list = po.array("K", "D")
    few: int = po.number(most=0.5)

    def start(self, n):
        return np.zeros(len(n)), np.zeros(len(n), bool)

    def score(self, k, o, s):
        p, x, y, (total, sure) = np.exp(o.log_prob), o.confidence.copy(), o.prediction.copy(), s
        x += self.offset[k] + np.interp(x, [0, 0.5, 1], [0, 1, 3]) + np.searchsorted([0.3, 0.6], x)
        y[x > 1] = 2.7
        sure = ((sure + (o.margin > 0.3)) * (o.confidence > 0.4)) ^ sure
        total += np.sum(p**3, axis=1) + np.mean(p, axis=1) + p[..., 0].clip(0.1) + o.top_prob[:, -1]
        x += (o.features * self.w[k]).sum(axis=1) + np.clip(np.square(x), None, 2)
        return total + x + y, [s[0], sure]


@pytest.mark.parametrize("score", [*(make_rule(name, SCORES[name]) for name in SCORES), Numpys])
def test_scores_pass_the_checks_of_scores(score, monkeypatch):
    monkeypatch.setitem(RULES, "numpys", Numpys)
    po.check_score(score, exits=K, classes=C)


@pytest.mark.parametrize(
    ("column", "needs"),
    [("margin", "margin"), ("entropy", "entropy"), ("log_prob", "log_prob"), ("features", "features"),
     ("log_sum_exp", "log_prob"), ("top_class", "log_prob")],
)  # fmt: skip
def test_a_column_that_is_not_declared_is_not_there(column, needs):
    """Not in a fit, a trace or serving: the error names it and what to add."""

    class Careless(po.ScoreRule):
        name = "careless"

        def score(self, k, output, state):
            return getattr(output, column).reshape(len(output), -1)[:, 0], state

    @dataclass(frozen=True)
    class Peeks(po.LearnedScore):
        label = "peeks"

        def learn(self, seen, seed):
            getattr(seen.take(np.arange(9)).outputs[0], column)
            return Careless()

    data = cache(50, exits=3)
    policy = po.Policy(Careless(), [0.5, 0.5], [1, 2, 3], "ms", "logits", 6)
    logits, _ = outputs(50, exits=3)
    words = rf"'{column}' must be declared .* required_columns = frozenset\(\{{\"{needs}\"\}}\)"
    for call in (
        lambda: po.check_score(Careless), lambda: policy.decide(logits), lambda: trace_policy(policy),
        lambda: policy.step(0, logits[0, 0], policy.start()), lambda: po.fit(data, "50%", Peeks()),
    ):  # fmt: skip
        with pytest.raises(po.InputError, match=words):
            call()


def scored(*_):
    return np.ones(60), ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Bad Name"}, "small letters"), ({"name": "margin"}, "one that no other has"), ({}, "small letters"),
        ({"required_columns": "margin"}, "required_columns of Mine.*must be of"),
        ({"__annotations__": {"name": "str"}, "name": "mine"}, "'name of Mine' must be no field"),
        ({"__annotations__": {"required_columns": frozenset}, "required_columns": frozenset()}, "'required_columns of Mine' must be no field"),
        ({"__annotations__": {"soft": "bool"}, "soft": True}, "'soft of Mine' must be an int or a float.*Got bool"),
        ({"__annotations__": {"mode": str}, "mode": "a"}, "'mode of Mine' must be an int or a float.*Got str"),
        ({"name": "mine", "score": lambda *_: "0.5"}, "what Mine.score returns' must be an array.*Got str"),
        ({"name": "mine", "score": lambda *_: np.ones(60)}, r"what Mine.score returns.*a state.*Got float64 \(60,\)"),
        ({"name": "mine", "score": lambda *_: (np.ones((60, 2)), ())}, r"what Mine.score returns.*\(60, 2\)"),
        ({"name": "mine", "score": lambda *_: (np.ones(60), "x")}, "what Mine.score returns.*Got tuple"),
        ({"name": "mine", "score": lambda *_: (np.ones(60), (np.ones(3),))}, r"what Mine.score returns.*\(3,\)"),
        ({"name": "mine", "score": lambda *_: (np.full(60, "a"), ())}, r"what Mine.score returns.*Got <U1 \(60,\)"),
        ({"name": "mine", "start": lambda *_: None}, "what Mine.start returns' must be a state"),
        ({"name": "mine", "score": lambda *_: (np.ones(60, np.longdouble), ())}, "at most 64 bits"),
        ({"name": "mine", "score": lambda *_: (np.ma.ones(60), ())}, "what Mine.score returns"),
        ({"name": "mine", "score": lambda *_: (np.full(60, np.nan), ())}, "Got NaN at exit 0 in row 0.*-inf"),
        ({"name": "mine", "score": lambda s, k, o, t: (np.add(o.confidence, 1, out=o.confidence), t)}, "read-only"),
        ({"name": "mine", "score": lambda *_: {}["x"]}, "Mine.score' must be run. Got KeyError: 'x'"),
        ({"name": "mine", "required_columns": property(lambda _: {"hidden"})}, "required_columns of Mine' must be of"),
        ({"name": "mine2", "__post_init__": print}, "a class that ScoreRule alone makes a dataclass"),
        ({"name": "mine", "score": lambda _, k, o, s: (o.confidence[np.arange(60) + 1], s)}, "check 'columns': .*of bounds"),
        ({"name": "mine", "required_columns": {"log_prob"}, "score": lambda _, k, o, s: ((o.log_prob * 0).sum(axis=1), s)},
         "check 'columns': .*log_prob is -inf"),
        ({"name": "mine", "score": lambda _, k, o, s, n=[]: (n.append(0) or o.confidence * len(n), s)}, "or score otherwise"),
    ],
)  # fmt: skip
def test_scores_that_cannot_be_are_refused(fields, words, monkeypatch):
    with pytest.raises((po.InputError, CheckError), match=words), np.errstate(all="ignore"):
        rule = type("Mine", (po.ScoreRule,), {"score": scored, **fields})
        if fields.get("name") != "mine":
            po.register_score(rule)
        monkeypatch.setitem(RULES, "mine", rule)
        for only in ("columns", "comes_back"):
            po.check_score(rule, only=only)


def test_what_cannot_be_declared_or_registered_is_refused():
    method = type("Peeks", (po.LearnedScore,), {"label": "peeks", "learn": scored})
    method = dataclass(frozen=True)(method)
    for words, call in (
        (r"'score' must be a ScoreRule or its class\. Got str", lambda: po.check_score("margin")),
        (r"label of Peeks' must be the name .* other\. Got peeks", lambda: po.register_method("other")(method)),
        # One long text would set the width of all entries of numpy's array: 224 GB here.
        (r"middle of score window.*str among them", lambda: make_rule("window", {"middle": ["a" * 60_000] + ["b"] * 1_000_000})),
        *(("'dimension' must be letters and numbers", lambda d=d: po.array(d)) for d in ("K - 1", "2*C", 3, "K-", "")),
    ):  # fmt: skip
        with pytest.raises(po.InputError, match=words):
            call()


def test_a_score_of_ones_own_does_what_ours_does(tmp_path):
    """Told apart as finely near 1; saved under its name only where it has that name."""

    class Own(po.ScoreRule):
        name, exact_at_one = "max_prob", True

        def score(self, k, output, state):
            return output.confidence, state

    scores = 1 - np.logspace(-9, -6, 50)[:, None] * [1, 1]
    assert collapse(Own(), scores)[1] == collapse(po.make_score("max_prob"), scores)[1] == ()
    with pytest.raises(po.InputError, match="'score' must be of a name that no other"):
        po.Policy(Own(), [0.5], [1, 2], "ms", "logits", 6).save(tmp_path / "p.json")
    assert numbers(
        "w", np.ones((4, 3), order="F"), 2
    ).flags.c_contiguous  # sums go by the order in memory


def test_a_score_is_shown_the_same_by_every_way(monkeypatch):
    """A record with more than it declares, whole outputs, and a mixture with a rule that declares more."""
    seen = []

    class Looks(po.ScoreRule):
        name = "looks"

        def score(self, k, output, state):
            seen.append((output.top_prob.shape[1], output.declared))
            return output.confidence, state

    record = {"prediction": [1], "confidence": [0.5], "top_prob": [[0.5, 0.3, 0.1]]}
    po.Policy(Looks(), [0.9], [1, 2], "ms", "summary", 3).decide([record, record])
    logits = np.zeros((4, 2, 3))
    mixture = Mixture(np.array([0.5]), 0.5, 0, make_rule("margin", {}))
    po.Policy(Looks(), [0.9], [1, 2], "ms", "logits", 3, mixture).decide(logits)
    po.check_score(Looks, only="columns")
    assert set(seen) == {(1, frozenset())}


def policyopt(at, words, code=0):
    command = [sys.executable, "-m", "policyopt", *words.split()]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("file", "method"), [("gap.py", "gap"), ("linear_trust.py", "learned_trust")])  # fmt: skip
def test_a_policy_of_ones_own_has_everything(folder, file, method):
    plugin = f"--plugin {file}"
    policyopt(folder, "import logits.npz --out cache --costs 1,2,4 --overwrite")
    assert method in policyopt(folder, f"{plugin} methods --format csv")
    policyopt(folder, f"{plugin} fit cache --method {method} --budget 60% --out {method}.json")
    told = policyopt(folder, f"run {method}.json logits.npz", code=2)
    score = json.loads((folder / f"{method}.json").read_text())["score"]["name"]
    assert score in told and "register" in told and "--plugin" in told
    policyopt(folder, f"{plugin} run {method}.json logits.npz")
    policyopt(folder, f"evaluate {method}.json cache {plugin}")
    curve = f"curve cache --methods max_prob,{method} --budgets 2 --format json {plugin}"
    assert f'"{method}"' in policyopt(folder, curve)
    out = f"{method}_out --cache cache"
    told = policyopt(folder, f"{plugin} export {method}.json --to {','.join(TARGETS)} --out {out}")
    policyopt(folder, told.partition("next: policyopt ")[2].split("\n")[0])  # it names the plugin


def test_an_installed_package_registers_by_entry_points(root, tmp_path):
    """Both groups; a package that cannot be imported is named, and no name of a file leads to an import."""
    site = tmp_path / "site"
    about = site / "mine-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "[policyopt.scores]\ngap = mine_gap\n[policyopt.methods]\ntrust = mine_trust\n"
    (about / "entry_points.txt").write_text(points)
    for name, text in zip(("mine_gap", "mine_trust"), blocks(root).values(), strict=True):
        (site / f"{name}.py").write_text(text)

    def said(code, path=(str(site),)):
        code = f"import sys; sys.path += {path}; import policyopt as po; {code}"
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        return done.stdout + done.stderr

    logits, labels = outputs(400, exits=3)
    np.savez(tmp_path / "rows.npz", logits=logits, labels=labels)
    data = "import numpy as np; r = np.load('rows.npz'); data = po.from_arrays(r['logits'], r['labels'], [1, 2, 4])"
    fits = "[po.fit(data, '60%', name).save(name + '.json') for name in ('gap', 'learned_trust')]"
    assert said(f"{data}; {fits}") == ""
    load = "print(po.load_policy('gap.json').rule)"
    assert said(load) == "Gap()\n"
    (tmp_path / "gap.py").write_text("raise SystemExit('imported by its name')")
    beside = f"import os; os.chdir({str(site)!r}); po.load_policy('../gap.json')"
    told = said(beside, ("",))  # what lies in the folder one works in is not installed
    assert "register" in told
    told = said(load, ())
    assert "register" in told and "imported by" not in told
    (site / "mine_gap.py").write_text("import nowhere_to_be_found")
    assert "'mine_gap' (entry point gap of policyopt.scores) cannot be imported" in said(load)


def test_settings_of_ones_own_are_told_as_they_are_declared():
    @dataclass(frozen=True)
    class Deep(po.LearnedScore):
        """Leaves where it is deep.

        Parameters
        ----------
        depth, width : int
            How deep it
            looks.
        """

        depth: int = 3
        width: int = 4
        bare: float = 1.0
        allowed: ClassVar = {"depth": (3, 5)}

        def learn(self, seen, seed):
            return po.make_score("max_prob")

    spec = MethodSpec("deep", "own", "", "", 0, "", Deep)
    told = {one.pop("setting"): one for one in spec.explained()}
    assert told["depth"] == {"default": 3, "allowed": "3, 5", "what": "How deep it looks."}
    assert told["width"] == {"default": 4, "allowed": "int", "what": "How deep it looks."}
    assert told["bare"] == {"default": 1.0, "allowed": "float", "what": ""}
    assert told["folds"]["what"] and told["spend"]["allowed"] == "needed, all"
