"""Sparse outputs: against the full ones, by every way in, and all that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

import policyopt as po
from policyopt._table import exit_statistics
from policyopt.runtime import reduce_exit
from policyopt.runtime._outputs_file import outputs_of, read_new
from policyopt.runtime._sparse import from_top

N, K, C, M = 300, 3, 40, 6
COSTS = {"costs": [1, 2, 4], "unit": "ms"}


def sparse(logits: np.ndarray, m: int) -> dict[str, np.ndarray]:
    """Return sparse outputs of logits (..., C), by a stable sort and scipy."""
    classes = np.argsort(-logits.astype(np.float64), axis=-1, kind="stable")[..., :m]
    others = logits.astype(np.float64)
    np.put_along_axis(others, classes, -np.inf, -1)
    rest = np.full(others.shape[:-1], -np.inf)
    some = np.isfinite(others).any(axis=-1)
    rest[some] = logsumexp(others[some], axis=-1)
    top = np.take_along_axis(logits, classes, -1)
    return {"top_logits": top, "top_classes": classes, "rest": rest}


@pytest.fixture(scope="module")
def full() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, C, N)
    strength = np.array([2.0, 4.0, 6.0])[:, None]
    logits = rng.normal(size=(N, K, C)) + strength * np.eye(C)[labels][:, None]
    return {"outputs": logits.astype(np.float32), "labels": labels}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), classes=st.integers(2, 60), share=st.floats(0, 1),
    scale=st.sampled_from([0.1, 3.0, 100.0]), dtype=st.sampled_from(["float16", "float32"]),
    masked=st.booleans(), axes=st.sampled_from(["NKC", "KNC", "CNK"]),
)  # fmt: skip
def test_as_the_full_outputs(
    seed: int, classes: int, share: float, scale: float, dtype: str, masked: bool, axes: str
) -> None:
    rng = np.random.default_rng(seed)
    m = 1 + round(share * (classes - 1))
    logits = (rng.normal(size=(9, 2, classes)) * scale).round(1).astype(dtype)  # with ties
    if masked:
        logits[:, :, 1:][rng.random((9, 2, classes - 1)) < 0.5] = -np.inf
    order = [*map("NKC".index, axes)]
    top = sparse(logits, m)
    turned = {k: a.transpose(order) for k, a in top.items() if a.ndim == 3}
    turned["rest"] = top["rest"].transpose([i for i in order if i < 2])
    kept = po.from_arrays(**turned, axes=axes, classes=classes).splits["pool"]
    found = exit_statistics(kept, "summary")
    said = exit_statistics(po.from_arrays(logits, kind="logits").splits["pool"], "logits")
    np.testing.assert_array_equal(found.prediction, said.prediction)
    # Of what is not sure, single precision; of what is nearly so, of the doubt that is left.
    ranks = found.top_prob.shape[2]
    assert ranks == min(m, 2)
    doubt = np.minimum(said.confidence, 1 - said.confidence)[:, :, None]
    off = np.abs(found.top_prob - said.top_prob[:, :, :ranks])
    assert (off <= 2e-6 * doubt + 1e-15).all()
    # A row alone, a batch of a serving policy and the cache have the same bits.
    alone = [from_top({k: a[i, 1] for k, a in top.items()}, classes) for i in range(9)]
    np.testing.assert_array_equal([one["top_prob"] for one in alone], found.top_prob[:, 1])


def test_policies_are_those_of_the_full_outputs(full: dict[str, Any]) -> None:
    top = sparse(full["outputs"], M)
    dense = po.from_arrays(**full, **COSTS)
    kept = po.from_arrays(**top, labels=full["labels"], classes=C, **COSTS)
    same = po.from_arrays(
        **po.summarise(full["outputs"]), labels=full["labels"], classes=C, **COSTS
    )
    for method in ("max_prob", "margin"):
        fits = [po.fit(data, "50%", method) for data in (dense, kept, same)]
        exits = [po.evaluate(fit, data).exit for fit, data in zip(fits, (dense, kept, same), strict=True)]  # fmt: skip
        np.testing.assert_array_equal(exits[0], exits[1])
        np.testing.assert_array_equal(exits[0], exits[2])
        np.testing.assert_array_equal(fits[0].policy.thresholds, fits[2].policy.thresholds)
        # Served from sparse outputs, from full ones, row by row: the replay's exits.
        rows, policy = np.arange(N), fits[1].policy
        served = policy.decide([{k: a[:, e] for k, a in top.items()} for e in range(K)], rows)
        read = [reduce_exit(full["outputs"][:, e], "logits", C) for e in range(K)]
        step = policy.step(0, {k: a[5, 0] for k, a in top.items()}, policy.start(5))
        assert step.exit == (served.exit[5] == 0)
        np.testing.assert_array_equal(served.exit, policy.decide(read, rows).exit)
    for method, lacks in (("entropy", "needs entropy"), ("eenet", "all class outputs")):
        with pytest.raises(po.InputError, match=lacks):
            po.fit(kept, "50%", method)
    assert po.fit(same, "50%", "entropy").policy.rule.name == "entropy"


def test_summaries_are_those_of_the_pass(full: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    logits = full["outputs"].astype(np.float16)
    dense = po.from_arrays(logits, full["labels"], kind="logits").splits["pool"]
    said = exit_statistics(dense, "logits")
    by_exit = [torch.from_numpy(logits[:, k]) for k in range(K)]
    for form in (logits, by_exit, logits.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        found = po.summarise(form)
        for name in ("prediction", "top_prob", "entropy"):
            np.testing.assert_array_equal(found[name], getattr(said, name))
    one = po.summarise(logits[0, :1], top=99)
    assert one["top_prob"].shape == (1, C) and one["prediction"] == said.prediction[0, 0]
    for bad in (np.float32(1.0), np.full((2, 3), np.nan)):
        with pytest.raises(po.InputError):
            po.summarise(bad)


def test_files(full: dict[str, Any], tmp_path: Path) -> None:
    top, labels = sparse(full["outputs"], M), full["labels"]
    kept = po.from_arrays(**top, labels=labels, classes=C, **COSTS)
    turned = {name: array.swapaxes(0, 1) for name, array in top.items()}
    more = {"labels": labels, "classes": C, "costs": [1, 2, 4]}
    np.savez(tmp_path / "one.npz", **turned, **more)  # type: ignore[arg-type]
    spelled = zip(("val_top_logits", "val_top_indices", "val_rest"), turned.values(), strict=True)
    np.savez(tmp_path / "val.npz", **dict(spelled), val_labels=labels, classes=C)  # type: ignore[arg-type]
    probs = kept.splits["pool"].array("top_prob").swapaxes(0, 1)
    shares = {"top_probs": probs, "top_classes": turned["top_classes"][:, :, :2]}
    np.savez(tmp_path / "probs.npz", **shares, **more)  # type: ignore[arg-type]
    apart = [tmp_path / f"m{k}.npz" for k in range(K)]
    for k, path in enumerate(apart):
        np.savez(path, **{name: a[:, k] for name, a in top.items()}, labels=labels, classes=C)  # type: ignore[arg-type]
    numbered = {f"{name}_{k}": a[:, k] for name, a in top.items() for k in range(K)}
    np.savez(tmp_path / "numbered.npz", **numbered, labels=labels, classes=C)  # type: ignore[arg-type]
    ways: dict[str, Any] = {"one.npz": {}, "val.npz": {}, "probs.npz": {}, "numbered.npz": {}, "m": {"exits": True}}  # fmt: skip
    for name, options in ways.items():
        source = apart if options else tmp_path / name
        made = po.import_sources(source, tmp_path / f"cache of {name}", **options).data
        assert made.classes == C and made.kind == "summary"
        rows = made.splits.get("pool") or made.splits["fit"]
        for column in ("prediction", "top_prob", "confidence", "labels"):
            np.testing.assert_array_equal(
                rows.array(column), kept.splits["pool"].array(column), name
            )
    policy = po.fit(kept, "50%", "margin").policy
    arrays, _ = read_new(tmp_path / "one.npz", policy)
    read = policy.decide(outputs_of(arrays, policy, None, "one.npz"))
    np.testing.assert_array_equal(
        read.exit, policy.decide([{k: a[:, e] for k, a in top.items()} for e in range(K)]).exit
    )
    np.savez(tmp_path / "unknown.npz", **turned, labels=labels)  # type: ignore[arg-type]
    with pytest.raises(po.InputError, match="in a file a key classes"):
        po.import_sources(tmp_path / "unknown.npz", tmp_path / "none")
    np.savez(tmp_path / "beside.npz", logits=full["outputs"].swapaxes(0, 1), **turned, **more)  # type: ignore[arg-type]
    report = po.import_sources(tmp_path / "beside.npz", tmp_path / "beside")
    assert report.data.kind == "logits"
    assert any("top_logits not used beside logits" in note for note in report.notes)


@pytest.mark.parametrize("bad", ["abc", [1.0, 2.0, 3.0], [["a"]], []])
def test_a_step_refuses_what_are_no_numbers(bad: Any) -> None:
    columns = {"top_classes": np.arange(2), "top_logits": np.zeros(2), "rest": 0.0}
    for name in columns:
        with pytest.raises(po.InputError, match="M at most C"):
            reduce_exit({**columns, name: bad}, "summary", C)
    with pytest.raises(po.InputError, match="M at most C"):
        reduce_exit(dict.fromkeys(columns, 1.0), "summary", C)


def _with(name: str, change: Any) -> Any:
    def changed(given: dict[str, Any]) -> None:
        given[name] = change(given[name].copy())

    return changed


def _put(value: float, *at: int) -> Any:
    def put(array: np.ndarray) -> np.ndarray:
        array[at] = value
        return array

    return put


BAD = {
    "rising": (_with("top_logits", lambda a: a[..., ::-1]), "top_logits.*largest first"),
    "nan": (_with("top_logits", _put(np.nan, 3, 1, 0)), "top_logits.*largest first"),
    "nan behind": (_with("top_logits", _put(np.nan, 3, 1, 4)), "top_logits.*largest first"),
    "no class at all": (_with("top_logits", _put(-np.inf, 3, 1)), "top_logits.*finite"),
    "class twice": (_with("top_classes", lambda a: a * 0), "top_classes.*different"),
    "class beyond": (_with("top_classes", _put(C, 3, 1, 5)), "top_classes.*from 0 to 39"),
    "class below": (_with("top_classes", _put(-1, 3, 1, 5)), "top_classes.*from 0 to 39"),
    "half a class": (_with("top_classes", lambda a: a + 0.5), "top_classes.*whole"),
    "rest nan": (_with("rest", _put(np.nan, 3, 1)), r"rest.*log of the sum.*row 3, exit \[1\]"),
    "rest inf": (_with("rest", _put(np.inf, 3, 1)), "rest.*log of the sum"),
    "rest of all": (_with("rest", lambda a: np.exp(a) + 9), "rest.*log of the sum"),
    "no rest": (lambda g: g.pop("rest"), "top_logits, top_classes and rest"),
    "no classes": (lambda g: g.pop("top_classes"), "top_logits, top_classes and rest"),
    "rest alone": (lambda g: g.pop("top_logits"), "outputs"),
    "unlike": (_with("top_classes", lambda a: a[..., :2]), "M at most C"),
    "short rest": (_with("rest", lambda a: a[:, :2]), "M at most C"),
    "prediction too": (lambda g: g.update(prediction=g["top_classes"][..., 0]), "prediction"),
    "C unknown": (lambda g: g.pop("classes"), "classes="),
    "C too small": (lambda g: g.update(classes=M - 1), "M at most C.*C = 5"),
    "texts": (_with("top_logits", lambda a: a.astype(str)), "numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, full: dict[str, Any]) -> None:
    change, told = BAD[name]
    given: dict[str, Any] = {**sparse(full["outputs"], M), "classes": C}
    change(given)
    with pytest.raises(po.InputError, match=told):
        po.from_arrays(**given)
