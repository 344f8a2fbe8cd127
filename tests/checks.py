"""What our methods pass besides the checks of `policyopt._checking`, which are everyone's.

Each check takes the registry's spec of a method; `tests/test_methods.py` runs all of them over all rows.
Exceptions stand in `EXCEPTIONS`, with their reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from policies import fits
from rules import assert_valid
from synthetic import outputs

import policyopt as po
from policyopt._answers.crossfit import CrossFitted
from policyopt._methods.exit_batch import build_batch
from policyopt._methods.lagrangian import LagrangianMethod
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.registry import ROWS, make_method
from policyopt._methods.regression import of_own_fold
from policyopt._methods.reinforcement import NeuralPolicyMethod
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime._answers import Identity
from policyopt.runtime._artifact import to_dict
from policyopt.runtime._errors import InputError
from policyopt.runtime._outputs import reduce_logits, with_log_prob

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
    name
    for name, row in ROWS.items()
    if issubclass(row.load(), (LearnedScore, NeuralPolicyMethod, LagrangianMethod))
}
EXCEPTIONS |= {
    ("check_row_order_does_not_matter", name): "draws folds by the row's number"
    for name in CROSS_FITTED
}
#: Need not spend what is left of a budget: one static exit; a list of exits that gain nothing by it.
SPARES = {"always", "frugalgpt", "subset"}


def fit_table(data):
    return Tables(data).get("fit")


def pool(logits, labels=None):
    """Rows of split `fit` alone, at costs 1, 2, 4, ...; labels may be unknown."""
    part = {"outputs": logits} if labels is None else {"outputs": logits, "labels": labels}
    return po.from_arrays(splits={"fit": part}, costs=2.0 ** np.arange(logits.shape[1]), unit="ms")


def fit_one(spec, table, budget):
    return make_method(spec).fit_path(table, [budget])[0]


def batch_of(data, features=False):
    """The plain answers of the fit rows."""
    return build_batch(fit_table(data), CrossFitted(Identity()), features)


def with_probabilities(logits):
    """One output an exit, all class probabilities kept."""
    exits = range(logits.shape[1])
    return [with_log_prob(reduce_logits(logits[:, k]), logits[:, k]) for k in exits]


def exits_taken(found, columns, fold):
    """Exit each row takes at each price by coefficients that its own fold did not train, (N, L)."""
    odds = [of_own_fold(x, found.theta[:, k], fold) for k, x in enumerate(columns)]
    return (np.stack([*odds, np.zeros_like(odds[0])], axis=1) >= 0).argmax(axis=1)


def check_row_order_does_not_matter(spec):
    logits, labels = outputs(1000)
    order = np.random.default_rng(5).permutation(1000)
    policies = [
        fit_one(spec, fit_table(pool(logits[rows], labels[rows])), 2.0).policy
        for rows in (np.arange(1000), order)
    ]
    np.testing.assert_array_equal(policies[0].decide(logits).exit, policies[1].decide(logits).exit)


def check_files_satisfy_the_schema(spec):
    for result in fits(spec)[0]:
        assert_valid(json.loads(json.dumps(to_dict(result.policy), allow_nan=False)))


def check_budget_is_spent(spec):
    for result in fits(spec, rows=8000)[0]:
        if spec.partition(":")[0] not in SPARES:
            assert result.expected.cost >= result.budget * 0.99


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


CHECKS = [function for name, function in sorted(globals().items()) if name.startswith("check_")]
