"""The checks that every registered policy passes. A new method joins by its row in the registry.

Each check takes the registry's spec of a method and builds what it needs; `tests/test_methods.py`
runs all of them over all rows. Exceptions stand in `EXCEPTIONS`, with their reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from policies import fits, trained
from rules import assert_valid
from synthetic import outputs

from policyopt.methods import ROWS, make_method
from policyopt.methods.learned_score import LearnedScore
from policyopt.methods.played import Played
from policyopt.methods.priced import Priced
from policyopt.replay import replay
from policyopt.runtime.artifact import from_dict, to_dict
from policyopt.runtime.errors import BudgetError, InputError
from policyopt.table import Tables

#: (check, method): why it does not apply.
EXCEPTIONS = {
    ("check_row_order_does_not_matter", "random"): "draws a coin by the sample's number",
    **{
        ("check_row_order_does_not_matter", name): "mixes by the sample's number"
        for name, row in ROWS.items()
        if row.discrete
    },
    ("check_row_order_does_not_matter", "agreement_cascade"): "mixes by the sample's number",
    ("check_row_order_does_not_matter", "frugalgpt"): "draws folds by the row's number",
    **{
        ("check_row_order_does_not_matter", name): "draws held-out rows by the row's number"
        for name in ("auto", "eenet", "eenet_released", "subset")
    },
}
#: Draw their folds by the row's number, so other rows train what scores a row.
CROSS_FITTED = {
    name for name, row in ROWS.items() if issubclass(row.load(), (LearnedScore, Played, Priced))
}
EXCEPTIONS |= {
    ("check_row_order_does_not_matter", name): "draws folds by the row's number"
    for name in CROSS_FITTED
}
#: Need not spend what is left of a budget: one static exit; a list of exits that gain nothing by it.
SPARES = {"always", "frugalgpt", "subset"}


def check_budget_is_kept(spec):
    """On the rows of the fit the cost is at most the budget; on others it is near it."""
    results, tables = fits(spec, rows=8000)
    for result in results:
        assert result.expected.cost <= result.budget * 1.000001
        test = tables.get("test")
        realised = replay(result.policy, test).cost.mean()
        low, high = result.expected.interval(len(test), level=0.9999)
        assert low <= realised <= high
        if spec.partition(":")[0] not in SPARES:
            assert result.expected.cost >= result.budget * 0.99


def check_budget_out_of_range_is_refused(spec):
    for budget in (0.5, 8.5):
        with pytest.raises(BudgetError, match=r"'budget' must be in \[1, 8\] ms"):
            fits(spec, (budget,))


def check_same_seed_same_policy(spec):
    first, second = fits(spec)[0], trained(spec)[0]
    for a, b in zip(first, second, strict=True):
        assert to_dict(a.policy) == to_dict(b.policy)


def check_path_equals_single_fits(spec):
    """One training serves all budgets: fitting one alone gives the same policy."""
    path, _ = fits(spec)
    for result in path[1::2]:
        (alone,), _ = trained(spec, (result.budget,))
        assert to_dict(alone.policy) == to_dict(result.policy)


def check_batch_equals_step(spec):
    logits, _ = outputs(300, seed=9)
    logits[:40] = np.round(logits[:40])  # ties
    results, _ = fits(spec)
    for result in results:
        policy = result.policy
        batch = policy.decide(logits)
        for row in range(len(logits)):
            state = policy.start(row)
            for k in policy.path:
                decision = policy.step(k, logits[row, k], state)
                if decision.exit:
                    break
            assert (k, decision.prediction) == (batch.exit[row], batch.prediction[row])


def check_survivors_equal_batch(spec):
    """Stepping a shrinking batch, as a server does, decides as the batch of all."""
    logits, _ = outputs(300, seed=10)
    results, _ = fits(spec)
    for result in results:
        policy = result.policy
        alive = np.arange(len(logits))
        state = policy.start(alive)
        exits = np.full(len(logits), -1)
        for k in policy.path:
            decision = policy.step(k, logits[alive, k], state)
            exits[alive[decision.exit]] = k
            state.keep(~decision.exit)
            alive = alive[~decision.exit]
        np.testing.assert_array_equal(exits, policy.decide(logits).exit)


def check_no_peeking(spec):
    """What comes after exit k, and the labels, cannot change a decision at exit k."""
    logits, _ = outputs(400, seed=11)
    rng = np.random.default_rng(0)
    results, _ = fits(spec)
    for result in results:
        policy = result.policy
        before = policy.decide(logits)
        for k in policy.path[:-1]:
            other = logits.copy()
            other[:, k + 1 :] = rng.normal(size=other[:, k + 1 :].shape) * 9
            after = policy.decide(other)
            early = before.exit <= k
            np.testing.assert_array_equal(after.exit <= k, early)
            np.testing.assert_array_equal(after.exit[early], before.exit[early])
            np.testing.assert_array_equal(after.prediction[early], before.prediction[early])


def check_row_order_does_not_matter(spec):
    logits, labels = outputs(1000)
    import policyopt as po

    order = np.random.default_rng(5).permutation(1000)
    costs = [1.0, 2.0, 4.0, 8.0]
    policies = []
    for rows in (np.arange(1000), order):
        data = po.from_arrays(
            splits={"fit": {"outputs": logits[rows], "labels": labels[rows]}},
            costs=costs,
            unit="ms",
        )
        table = Tables(data).get("fit")
        policies.append(make_method(spec).fit_path(table, [2.0])[0].policy)
    np.testing.assert_array_equal(policies[0].decide(logits).exit, policies[1].decide(logits).exit)


def check_artifact_round_trip(spec):
    logits, _ = outputs(200, seed=12)
    results, _ = fits(spec)
    for result in results:
        text = json.dumps(to_dict(result.policy), allow_nan=False)
        assert_valid(json.loads(text))
        again = from_dict(json.loads(text))
        assert to_dict(again) == to_dict(result.policy)
        np.testing.assert_array_equal(again.decide(logits).exit, result.policy.decide(logits).exit)


def check_artifact_runs_with_numpy_alone(spec, folder):
    """In a process that cannot import anything but numpy, the artifact decides as `replay` did."""
    results, tables = fits(spec)
    test = tables.get("test")
    key, rows = tables.data.rows("test")
    np.save(folder / "outputs.npy", tables.data.splits[key].array("outputs")[rows])
    code = textwrap.dedent(
        """
        import sys
        class Ban:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("scipy", "sklearn", "torch", "pandas", "safetensors", "typer", "rich"):
                    raise ImportError(name + " is banned here")
        sys.meta_path.insert(0, Ban())
        import numpy as np
        from policyopt.runtime import load_policy
        outputs = np.load("outputs.npy")
        np.save("exits.npy", [load_policy(name).decide(outputs).exit for name in sys.argv[1:]])
        third = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
        third = {name for name in third if not name.startswith("_") and sys.modules[name].__spec__}
        own = {"numpy", "policyopt", "sitecustomize", "usercustomize"}  # the last two: the machine's
        assert third <= own, third
        """
    )
    names = []
    for i, result in enumerate(results):
        result.save(folder / f"{i}.json")
        names.append(f"{i}.json")
    subprocess.run([sys.executable, "-c", code, *names], cwd=folder, check=True)
    for result, exits in zip(results, np.load(folder / "exits.npy"), strict=True):
        np.testing.assert_array_equal(exits, replay(result.policy, test).exit)


def check_inputs_are_left_alone(spec):
    logits, _ = outputs(100, seed=13)
    logits.flags.writeable = False
    before = logits.copy()
    results, _ = fits(spec)
    for result in results:
        result.policy.decide(logits)
        first = result.policy.path[0]
        result.policy.step(first, logits[0, first], result.policy.start())
    np.testing.assert_array_equal(logits, before)


def check_bad_outputs_are_named(spec):
    logits, _ = outputs(10, seed=14)
    (result, *_), _ = fits(spec)
    policy = result.policy
    broken = logits.copy()
    broken[3, 0, 2] = np.nan
    for wrong, words in (
        (broken, "output of exit 0.*row 3"),
        (logits[:, :3], r"outputs.*\(N, 4, 6\).*\(10, 3, 6\)"),
        (logits[:, :, :5], r"output of exit 0.*\(n, 6\)"),
        (logits.astype(str), "output of exit 0.*dtype"),
    ):
        with pytest.raises(InputError, match=words):
            policy.decide(wrong)
    state = policy.start()
    with pytest.raises(InputError, match="'k' must be the next exit, 0"):
        policy.step(1, logits[0, 1], state)


def check_small_cases(spec):
    """One row, two exits, two classes; and every row the same."""
    import policyopt as po

    one = np.array([[[0.2, 0.1], [0.0, 3.0]]], dtype=np.float32)
    for logits in (one, np.repeat(one, 40, axis=0)):
        labels = np.ones(len(logits), dtype=np.int32)
        data = po.from_arrays(
            splits={"fit": {"outputs": logits, "labels": labels}}, costs=[1.0, 3.0], unit="ms"
        )
        for budget in (1.0, 2.0, 3.0):
            (result,) = make_method(spec).fit_path(Tables(data).get("fit"), [budget])
            assert 1.0 - 1e-9 <= result.expected.cost <= budget + 1e-9
            assert result.policy.decide(logits).exit.shape == (len(logits),)


CHECKS = [function for name, function in sorted(globals().items()) if name.startswith("check_")]
