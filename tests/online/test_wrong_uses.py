"""Wrong uses of what adapts: each is refused, in the words that tell what to do."""

import subprocess
import sys

import numpy as np
import pytest

import policyopt as po
from policyopt._cli.explain import explain
from policyopt._online.drift import refit, watch_policy
from policyopt._online.entrants import every
from policyopt._online.families import fit_family, threshold_family
from policyopt._report.figures import simulation_figure
from policyopt._table import Tables
from policyopt.runtime._bandits import make_bandit
from policyopt.runtime._drift import Movement
from policyopt.runtime._experts import ExpertPolicy, save_experts
from policyopt.runtime._online import UEEUCB, Controller, LinUCB, Online, SplitEE
from tests.synthetic import outputs


class World:
    """A cache, what is fitted on it, and objects that serve."""

    def __init__(self):
        logits, labels = outputs(n=600, exits=3, classes=4, seed=3)
        places = {"fit": slice(200), "test": slice(200, 400), "blur": slice(400, 600)}
        parts = {name: {"outputs": logits[at], "labels": labels[at]} for name, at in places.items()}
        self.data = po.from_arrays(splits=parts, costs=[1, 2, 5], unit="ms")
        self.tables = Tables(self.data)
        self.fit, self.test = self.tables.get("fit"), self.tables.get("test")
        self.fitted = po.fit(self.data, "50%", "max_prob", tables=self.tables)
        self.policy = self.fitted.policy
        self.family = threshold_family(self.test, [0, 0.5, 1])
        self.watch = watch_policy(self.policy, self.test)
        self.prices = (0.0, 0.1, 0.2)

    def online(self, **settings):
        return Online(self.family, make_bandit("ucb1"), **settings)

    def told(self, correct, **settings):
        """Tell an `Online` of a request that has left what was right."""
        online = self.online(**settings)
        request = online.start()
        for k in range(3):
            online.decide(k, [1.0, 0, 0, 0], request)
        online.feedback(request, correct=correct)

    def simulate(self, **settings):
        return po.simulate(self.data, **{"rounds": 60, "repetitions": 2, **settings})


@pytest.fixture(scope="module")
def w():
    return World()


WRONG = {
    # Online: who steers what
    "one level, bandit": (lambda w: Online(w.policy, make_bandit("ucb1")), "at least 2 levels, for ucb1"),
    "one level, controller": (lambda w: Online(w.policy, Controller(0.3)), r"fit_family\(...\) makes one"),
    "name": (lambda w: Online(w.family, "ucb1"), r"'steering' must be a bandit.*make_bandit\('ucb1'\)"),
    "nobody": (lambda w: Online(w.family, None), "'steering' must be a bandit.* Got None"),
    "class": (lambda w: Online(w.policy, LinUCB), "Got the class LinUCB"),
    "levels": (lambda w: Online(w.family, LinUCB()), "'family' must be a policy, for linucb"),
    "reveal": (lambda w: Online(w.policy, LinUCB(), reveal="played"), "'reveal' must be left out for linucb"),
    "label splitee": (
        lambda w: Online(w.policy, SplitEE(w.prices, 0.1), reward="label"), "label-free for splitee",
    ),
    "label uee": (lambda w: Online(w.policy, UEEUCB(w.prices), reward="label"), "label-free for uee_ucb"),
    "budget": (lambda w: Controller(budget=4.8), "a share of the way from the first exit's cost to the last's"),
    "budget text": (lambda w: Controller(budget="40%"), r"in \[0, 1\]. Got 40%"),
    # Online: requests and files
    "no request": (lambda w: w.online().decide(0, [1, 0, 0, 0], None), "'request' must be a Request. Got None"),
    "decide another's": (
        lambda w: w.online().decide(0, [1, 0, 0, 0], w.online().start()), "that this Online started",
    ),
    "feedback another's": (lambda w: w.online().feedback(w.online().start()), "that this Online started"),
    "one truth": (lambda w: w.told(True, reward="label"), "one truth value per exit seen"),
    "no truths": (lambda w: w.told([3, 3, 3], reward="label"), r"Got \[3, 3, 3\]"),
    "labels not read": (lambda w: w.told([1, 1, 1]), "'confidence' reads no labels"),
    "save": (lambda w: w.online().save("/tmp"), "'path' must be a file. Got /tmp"),
    # families, watches, refits
    "data for a table": (lambda w: fit_family("max_prob", w.data, 5), "'table' must be a Table. Got ExitData"),
    "part of a point": (lambda w: fit_family("max_prob", w.fit, 5.5), "'points' must be a whole number"),
    "no points": (lambda w: fit_family("max_prob", w.fit, 0), "'points' must be a whole number, at least 1"),
    "watch data": (lambda w: watch_policy(w.policy, w.data), "'table' must be a Table. Got ExitData"),
    "refit data": (lambda w: refit(w.fitted, w.data, w.test), "'labelled' must be a Table"),
    "refit array": (lambda w: refit(w.fitted, w.fit, np.zeros((3, 3))), "'recent' must be a Table. Got ndarray"),
    "no such class": (lambda w: w.watch.update([0.5], 77, 0), "classes from 0 to 3, or -1 for none. Got 77"),
    # simulations
    "one threshold": (lambda w: w.simulate(arms="0.5"), "'arms' must be at least 2 thresholds"),
    "half an arm": (lambda w: w.simulate(arms=0.5), "'arms' must be low:high:step"),
    "no arms": (lambda w: w.simulate(arms=None), "'arms' must be low:high:step"),
    "letters": (lambda w: w.simulate(arms="a,b"), "thresholds, or a whole number of points. Got a,b"),
    "downwards": (lambda w: w.simulate(arms="1:0:0.1"), "low below high"),
    "no step": (lambda w: w.simulate(arms="0:1:0"), "low below high"),
    "unsteerable": (lambda w: w.simulate(method="patience"), "that a number can steer.* Got patience"),
    "unsteerable, counted": (lambda w: w.simulate(method="patience", arms=11), "can steer.* Got patience"),
    "no thresholds": (lambda w: w.simulate(method="optimal_stopping"), "Got thresholds for optimal_stopping"),
    "nothing changes": (lambda w: w.simulate(schedule="abrupt"), "two or more, for a schedule that is abrupt"),
    "disagree": (
        lambda w: w.simulate(schedule="test:30,blur:30", streams="test", rounds=None), "those of the schedule, test, blur",
    ),
    "no schedule": (lambda w: w.simulate(schedule=None), "'schedule' must be a text. Got None"),
    "no stream": (lambda w: w.simulate(streams="test,nosuch"), "'streams' must be among fit, test, blur. Got nosuch"),
    "reveal unread": (lambda w: w.simulate(policies="linucb", reveal="foo"), "'reveal' must be one of"),
    "twice": (lambda w: w.simulate(policies="ucb1,ucb1"), "'policies' must be one or more names, each once"),
    "no settings": (lambda w: w.simulate(policies="ucb1:"), "'settings of ucb1' must be key=value. Got none"),
    "all set": (lambda w: w.simulate(policies="bandits:c=1"), "it stands for all of them"),
    "a number": (lambda w: w.simulate(policies=[3]), "'policies' must be one or more names"),
    "seed": (lambda w: w.simulate(seed=-1), "'seed' must be a whole number, at least 0"),
    "policy": (lambda w: w.simulate(policies="ucb9"), "'policy' must be one of"),
    "setting": (lambda w: w.simulate(policies="ucb1:d=2"), "'setting of ucb1' must be one of c"),
    "no budget": (lambda w: w.simulate(policies="controller"), "'policy controller' must be given with a budget"),
    "schedule": (lambda w: w.simulate(schedule="wild"), "'schedule' must be one of"),
    "zero arms": (lambda w: w.simulate(arms=0), "'arms' must be a whole number, at least 1"),
    "overhead": (lambda w: w.simulate(overhead=-1), "'overhead' must be"),
    "reward": (lambda w: w.simulate(reward="gold"), "'reward' must be one of"),
    "rounds": (lambda w: w.simulate(rounds=1), "'rounds' must be"),
    "label share": (lambda w: w.simulate(label_share=0), "'label_share' must be"),
    "repetitions": (lambda w: w.simulate(repetitions=0), "'repetitions' must be"),
}  # fmt: skip


@pytest.mark.parametrize("use", WRONG)
def test_wrong_uses_are_refused(w, use):
    call, words = WRONG[use]
    with pytest.raises(po.InputError, match=words):
        call(w)


@pytest.mark.parametrize("budget", ["400%", "1%", -2])
@pytest.mark.parametrize("name", ["fixed", "controller"])
def test_budgets_out_of_reach_are_budget_errors(w, name, budget):
    with pytest.raises(po.BudgetError, match=r"'budget' must be in \[1, 5\] ms"):
        w.simulate(policies=name, budget=budget)


def test_numbers_of_numpy_are_numbers(w, tmp_path):
    bandit = make_bandit("sliding_window_ucb", {"window": np.int64(10), "xi": np.float64(0.5)})
    online = Online(w.family, bandit, overhead=np.float64(0.1), seed=np.int64(3))
    online.save(tmp_path / "online.json")
    assert Online.load(tmp_path / "online.json").state() == online.state()
    assert fit_family("max_prob", w.fit, np.int64(3)).arms == 5
    assert fit_family("max_prob", w.fit, "40%").arms == 3


def test_one_repetition_claims_no_interval_and_no_interval_leaves_the_possible(w):
    (one,) = w.simulate(repetitions=1).records
    (two,) = w.simulate(repetitions=2, rounds=2, arms=[0.0, 1.0]).records
    for name in ("regret", "realised_cost", "accuracy"):
        assert one[name] is not None and one[f"{name}_low"] is one[f"{name}_high"] is None
    assert 1 <= two["realised_cost_low"] <= two["realised_cost_high"] <= 5
    assert 0 <= two["accuracy_low"] <= two["accuracy_high"] <= 1


def test_records_say_what_was_run(w):
    (record,) = w.simulate(streams="test,blur", delay=3, label_share=0.5, seed=4, arms=2).records
    told = {k: record[k] for k in ("streams", "delay", "label_share", "seed", "method", "reward")}
    assert told == {
        "streams": ["test", "blur"], "delay": 3, "label_share": 0.5, "seed": 4,
        "method": "max_prob", "reward": "confidence",
    }  # fmt: skip
    assert record["arms_unit"] == record["unit"] == "ms" and len(record["arms"]) == 4


def test_the_picture_names_every_policy_and_hides_no_curve(w):
    names = ["bandits", "linucb", "splitee", "uee_ucb", "controller", "fixed"]
    found = w.simulate(policies=names, budget="50%", streams="test,blur", schedule="abrupt")
    figure = simulation_figure(found)
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [*found.metrics, "budget"]
    regret, cost, *arms = figure.axes
    assert regret.get_legend() is None
    assert cost.get_title("left") == "mean cost of the latest 5 requests [ms]"
    assert len(arms) == len(found.metrics) - 1  # all but `fixed`
    assert {a.get_ylabel() for a in arms} == {"threshold", "exit", "split at exit", "level"}


def test_every_setting_that_is_listed_is_taken(w):
    for row in every():
        known = {k: v for k, v in row["settings"].items() if v is not None}
        text = row["method"] + ":" * bool(known) + "+".join(f"{k}={v}" for k, v in known.items())
        assert w.simulate(policies=[text], budget="50%").records[0]["policy"] == text


def test_an_alarm_by_coins_alone_claims_no_movement():
    still = Movement("exit taken", 1.0, "exit 0 more often", 1.0, 1.0, 5, 9)
    assert str(still) == "exit taken: no visible movement, share 1, over 9 requests since request 5"


def test_a_reader_that_has_seen_enough_breaks_nothing(w, tmp_path):
    w.policy.save(tmp_path / "policy.json")
    np.save(tmp_path / "outputs.npy", np.zeros((3, 30_000, 4)))
    command = [
        sys.executable,
        "-m",
        "policyopt.runtime",
        "policy.json",
        "outputs.npy",
        "--axes=KNC",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as run:
        assert run.stdout.readline() == b"row,exit,prediction,cost\n"
        run.stdout.close()
        assert run.stderr.read() == b"" and run.wait() == 0


def test_explain_says_that_it_takes_single_policies(w, tmp_path):
    save_experts(ExpertPolicy(("clean", "blur"), (w.policy, w.policy)), tmp_path / "experts.json")
    said = r"a single policy. Got experts.json, with one each for clean, blur"
    with pytest.raises(po.InputError, match=said):
        explain(tmp_path / "experts.json", tmp_path / "cache", out=None)
