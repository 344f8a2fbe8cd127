"""Tuning: planted methods whose best setting is known, resumption, pruning, the command line."""

import json
import multiprocessing
import sqlite3
from dataclasses import dataclass, replace

import numpy as np
import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from synthetic import cache as make_cache
from synthetic import outputs

import policyopt as po
from policyopt._methods.base import Method
from policyopt._methods.baselines import Random
from policyopt._methods.registry import ROWS, MethodSpec
from policyopt._methods.settings import Choice, Integer, Real
from policyopt._methods.threshold import Threshold
from policyopt._table import Tables
from policyopt._tuning import Objective, fold_rows, mean_height, records, score_fold
from policyopt.runtime import load_policy
from policyopt.runtime._errors import InputError, input_error


@event.listens_for(Engine, "connect")
def unsynced(connection, _):
    if isinstance(connection, sqlite3.Connection):  # and no server of another test
        connection.execute("PRAGMA synchronous=OFF")


CALLS = {"fits": 0, "stop_at": None, "rows": set()}


@dataclass(frozen=True)
class Planted(Method):
    """Exits drawn by a coin for some budgets, for the more the further `x` is from 0.7; else max_prob."""

    x: float = 0.1
    kind: str = "sound"
    greed: float = 0.0

    def propose(self, table, budgets, seed=0):
        CALLS["fits"] += 1
        CALLS["rows"] |= set(table.places.tolist())
        if CALLS["fits"] == CALLS["stop_at"]:
            raise KeyboardInterrupt
        if self.kind == "broken":
            raise input_error("kind", "sound", self.kind, "Mend it.")
        top = float(table.mean_costs[-1])
        asked = [min(b * (1 + self.greed), top) for b in budgets]
        good = Threshold("max_prob", spend="all").fit_path(table, asked, seed)
        poor = Random().fit_path(table, asked, seed)
        lost = round(abs(self.x - 0.7) / 0.7 * len(budgets))
        path = poor[:lost] + good[lost:]
        return [replace(f, budget=b) for f, b in zip(path, budgets, strict=True)]

    @classmethod
    def space(cls):
        return {"x": Real(0.0, 1.0), "kind": Choice(("sound", "broken")), "greed": Real(0, 0.5)}


SMALL = {"x": (0.1, 0.4, 0.7), "kind": ("sound", "broken")}


class Small(Planted):
    space = staticmethod(lambda: {name: Choice(values) for name, values in SMALL.items()})


class Whole(Planted):  # whose default lies outside
    space = staticmethod(lambda: {"x": Integer(1, 3)})


KINDS = {"planted": Planted, "small": Small, "whole": Whole}
FIXED = {"kind": "sound", "greed": 0.0}
QUICK = {"folds": 2, "budgets": 2}


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    CALLS.update(fits=0, stop_at=None, rows=set())
    load = MethodSpec.load
    monkeypatch.setattr(MethodSpec, "load", lambda row: KINDS.get(row.name) or load(row))
    for name in KINDS:
        monkeypatch.setitem(ROWS, name, MethodSpec(name, "test", "", "", 0, "-", "-"))


@pytest.fixture(scope="module")
def data():
    return make_cache(n=600, exits=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    logits, labels = outputs(1200, exits=4)
    folder = tmp_path_factory.mktemp("tuning")
    np.savez(folder / "l.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8])
    po.import_sources([folder / "l.npz"], folder / "c", unit="ms")
    return folder / "c"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def different(found):
    return {json.dumps(r["settings"], sort_keys=True): r for r in found.history}


def test_finds_the_planted_best_and_prunes_but_never_the_default(data):
    found = po.tune(data, "planted", FIXED, trials=15)
    assert 0.55 < found.settings["x"] < 0.85
    assert found.worthwhile and found.recommended == found.settings
    assert found.value > found.default_value and found.gain > found.gain_error > 0
    assert found.gain == pytest.approx(found.value - found.default_value)
    assert found.history[0]["settings"] == {"x": 0.1}
    assert [r["default"] for r in found.history] == [True] + [False] * 14
    assert len(found.history) == found.complete + found.pruned + found.failed == 15
    pruned = [r for r in found.history if r["state"] == "pruned"]
    assert pruned and all(3 <= len(r["folds"]) < 5 and not r["default"] for r in pruned)
    assert CALLS["fits"] == sum(len(r["folds"]) for r in found.history) < 15 * 5
    assert CALLS["rows"] <= set(data.rows("fit")[1].tolist())  # none of the test rows
    other = po.tune(data, "planted", FIXED, trials=4, seed=4, **QUICK)
    assert [r["settings"] for r in other.history] != [r["settings"] for r in found.history[:4]]


def test_failed_trials_are_told_not_fatal(data):
    found = po.tune(data, "planted", {"x": 0.7}, trials=8, **QUICK)
    failed = [r for r in found.history if r["state"] == "failed"]
    assert failed and all("Mend it" in r["error"] for r in failed)
    assert found.failed == len(failed) and found.settings["kind"] == "sound"
    with pytest.raises(InputError, match=r"None of 3 trials .* Mend it"):
        po.tune(data, "planted", {"kind": "broken"}, trials=3, **QUICK)


def test_a_finite_space_is_searched_once(data):
    found = po.tune(data, "small", trials=30, **QUICK)
    assert found.exhausted and len(found.history) == len(different(found)) == 6
    assert found.settings == {"x": 0.7, "kind": "sound"}
    found = po.tune(data, "small", {"kind": "sound"}, trials=2, **QUICK)
    assert not found.exhausted and len(found.history) == 2
    # A default outside the space comes first all the same.
    found = po.tune(data, "whole", trials=9, **QUICK)
    assert found.history[0]["default"] and found.history[0]["settings"] == {}
    assert found.default_settings == {"x": 0.1} and len(found.history) == 4 and found.exhausted


def test_settings_tried_before_are_not_fitted_again(data):  # where the sampler repeats itself
    found = different(po.tune(data, "small", trials=5, **QUICK)).values()
    sound = [r for r in found if r["settings"]["kind"] == "sound"]
    assert CALLS["fits"] == sum(len(r["folds"]) for r in sound) + len(found) - len(sound)


@pytest.mark.parametrize("stop_at", [2, 20])
def test_interrupted_and_resumed_is_as_if_never_interrupted(data, url, stop_at):
    # Past the random start, so that the sampler's state counts.
    more = {"folds": 3, "trials": 12, "budgets": 2}
    whole = po.tune(data, "planted", FIXED, **more)
    CALLS.update(fits=0, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        po.tune(data, "planted", FIXED, storage=url, **more)
    assert po.tune(data, "planted", FIXED, storage=url, **more) == whole
    fits = CALLS["fits"]
    assert po.tune(data, "planted", FIXED, storage=url, **more) == whole
    assert CALLS["fits"] == fits, "a finished study fits nothing"
    longer = po.tune(data, "planted", FIXED, storage=url, **{**more, "trials": 13})
    assert longer.history[:12] == whole.history and len(longer.history) == 13


@pytest.mark.parametrize("marks", [{"default": True}, {}])
def test_a_killed_process_leaves_nothing_untried(data, url, marks):
    """A trial that runs for ever, in the storage, is one more; all else is as if it were not."""
    CALLS["stop_at"] = 1
    with pytest.raises(KeyboardInterrupt):
        po.tune(data, "small", storage=url, **QUICK)
    study = optuna.load_study(study_name=None, storage=url)
    trial = study.ask()  # takes up the interrupted one, and is never heard of again
    for name, values in SMALL.items():
        trial.suggest_categorical(name, values)
    for key, value in marks.items():
        trial.set_user_attr(key, value)
    found = po.tune(data, "small", storage=url, **QUICK)
    assert found.exhausted and found.settings == {"x": 0.7, "kind": "sound"}
    assert found.default_value is not None and len(different(found)) == 6


def test_another_study_is_refused_by_name(data, url):
    po.tune(data, "planted", FIXED, trials=1, storage=url)
    other = make_cache(n=600, exits=4, seed=1)
    prints = f"cache {other.fingerprint[:12]}.*{data.fingerprint[:12]}"
    for given, more, words in (
        (other, {}, prints),
        *((data, more, "empty or of this study") for more in (
            {"folds": 4}, {"seed": 1}, {"objective": "accuracy", "budget": "50%"},
        )),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            po.tune(given, "planted", FIXED, trials=1, storage=url, **more)


def test_several_processes_share_a_study(data, url):
    def work():
        po.tune(data, "small", trials=6, storage=url, **QUICK)

    workers = [multiprocessing.get_context("fork").Process(target=work) for _ in "12"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = po.tune(data, "small", trials=6, storage=url, **QUICK)
    assert CALLS["fits"] == 0 and 6 <= len(found.history) <= 8 and found.history[0]["default"]
    # Two that choose at the same moment may choose the same; it is rare, and no worse than that.
    assert len(different(found)) >= 5


def test_a_trial_whose_error_is_noted_but_that_still_runs_is_not_counted():
    """Two processes share a study: one may look between the other's note and its end."""
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr("error", "out of reach")
    assert records(study) == []
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert [r["state"] for r in records(study)] == ["failed"]


def test_accuracy_at_a_budget_is_not_gained_by_overspending():
    """Read naively, greed pays; at equal realised cost it does not."""
    data = make_cache(n=6000, exits=4)
    table = Tables(data).get("fit")
    budget = 0.3 * float(table.mean_costs[-1])
    methods = [Planted(x=0.7, greed=g, spend="all") for g in (0.0, 0.5)]
    both = [m.fit_path(table, [budget])[0].policy for m in methods]
    tempting = np.diff([po.evaluate(policy, data).quality.mean() for policy in both])[0]
    assert tempting > 0.02
    train, held = (table.take(rows) for rows in fold_rows(len(table), 2, seed=0))
    objective = Objective("accuracy", budget="30%")
    first, second = (score_fold(m, train, held, objective, 0) for m in methods)
    assert first.realised_cost == pytest.approx(budget, rel=0.05)
    assert second.realised_cost > 1.3 * first.realised_cost
    assert second.value <= first.value + 0.1 * tempting
    best = {"kind": "sound", "x": 0.7}
    found = po.tune(data, "planted", best, objective="accuracy", budget="30%", trials=6)
    assert found.gain < 0.1 * tempting
    assert found.history[0]["realised_cost"] == pytest.approx(budget, rel=0.05)


def test_mean_height_is_bounded_by_the_ends():
    for cost, accuracy, wanted in (([1, 9, 5], [0.5, 0.9, 0.7], 0.7), ([1, 11, 9], [0.5, 1, 0.5], 0.5)):  # fmt: skip
        found = mean_height(np.array(cost, float), np.array(accuracy), 1, 9)
        assert found == pytest.approx(wanted)


def test_command_line_tunes_resumes_and_writes(run, cache, tmp_path):
    words = ("tune", cache, "--method", "planted", "--set", "kind=sound", "--set", "greed=0",
             "--objective", "accuracy", "--budget", "40%", "--folds", 3, "--seed", 3, "--out", tmp_path)  # fmt: skip
    code, out, err = run(*words, "--trials", 5, "--format", "json")
    assert code == 0, err
    first, written = json.loads(out), json.loads((tmp_path / "tuned.json").read_text())
    assert first == written and len(first["history"]) == 5
    assert load_policy(tmp_path / "policy.json").provenance["budget"] == pytest.approx(3.2)
    fits = CALLS["fits"]
    code, out, _ = run(*words, "--trials", 6)
    assert code == 0 and "default" in out and "paired over folds" in out
    assert CALLS["fits"] <= fits + 3 + 9, "one trial more, and the final fit with its five folds"
    # What is printed runs as it stands.
    program, *command = json.loads((tmp_path / "tuned.json").read_text())["command"].split()
    assert (program, command[0], command[command.index("--seed") + 1]) == ("policyopt", "fit", "3")
    code, _, err = run(*command, "--out", tmp_path / "again.json")
    assert code == 0, err
    again, policy = (load_policy(tmp_path / n) for n in ("again.json", "policy.json"))
    assert again.thresholds.tolist() == policy.thresholds.tolist()


def test_command_line_keeps_the_default_where_nothing_is_gained(run, cache, tmp_path):
    words = ("tune", cache, "--method", "planted", "--set", "x=0.7", "--set", "kind=sound",
             "--trials", 4, "--out", tmp_path)  # fmt: skip
    code, out, _ = run(*words)
    told = " ".join(out.split())
    assert code == 0 and ("keep it" in told or "within one standard error" in told)
    assert json.loads((tmp_path / "tuned.json").read_text())["recommended"] == "default"
    code, out, _ = run(*words, "--format", "csv")
    assert code == 0 and len(out.splitlines()) == 5


REFUSED = {
    "--method nothing": "'method' must be one of", "--method always": "one with settings to tune",
    "--trials 0": "'trials' must be more than 0", "--folds 5000": "'folds' must be from 2",
    "--timeout nan": "'timeout' must be more than 0. Got nan. E.g. --timeout 600.",
    "--objective speed": "'objective' must be one of", "--objective accuracy": "'budget' must be given",
    "--objective accuracy --budget much": "'budget' must be a number",
    "--objective accuracy --budget 40% --budgets 3": "'--budgets'",
    "--objective accuracy --budget 100": "'budget' must be from 1 to 8 ms", "--budgets 0": "budgets",
    "--storage nourl": "'storage' must be a storage URL",
    "--storage sqlite:////no/such/place/s.db": "'storage' must be a storage URL",
    "--storage postgres+nothing://host/db": "postgres", "--storage sqlite:///damaged.db": "'storage' must be a storage URL",
    "--set y=1": "setting of planted", "--set x=0.5 --set kind=sound --set greed=0": "Drop a --set",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_command_line_refuses(run, cache, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.db").write_text("not a database " * 100)
    code, out, err = run("tune", cache, "--method", "planted", "--out", "o", *words.split())
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out) == (3 if "100" in words else 2, "") and len(errors) == 1
    assert REFUSED[words] in err and "Traceback" not in err, err
    assert CALLS["fits"] == 0, "refused before the work"
