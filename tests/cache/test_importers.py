"""Every format and key rule; what is decided is noted."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from cache_rows import CONF, CORRECT, NAMES, PRED, WIDTHS, C, K, N, P, X, Y, batch, keyed
from conftest import refuses
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from policyopt._cache.arrays import from_arrays
from policyopt._cache.importers import import_sources
from policyopt._cache.reader import open_cache
from policyopt._table import exit_statistics
from policyopt.runtime._errors import InputError
from policyopt.runtime._text import same_answer

KNC = X.transpose(1, 0, 2)
COSTS = [1.0, 2.0, 4.0]
LONG = pd.DataFrame({
    "sample": np.repeat([f"q{i}" for i in range(N)], K), "exit": np.tile(range(K), N), "prompt": "text",
    "pred": PRED.ravel(), "conf": CONF.ravel(), "correct": CORRECT.ravel(), "label": np.repeat(Y, K),
    "cost_usd": np.cumsum(CONF, 1).ravel(), "cost": np.tile(COSTS, N),
    "split": np.repeat(np.where(np.arange(N) < 30, "val", "test"), K),
})  # fmt: skip
AT_60 = ("--budget", "60%", "--method", "max_prob", "--out")


@pytest.fixture
def load(tmp_path):
    def load(*sources, **options):
        given = [s if "=" in str(s) else tmp_path / s for s in sources]
        options.setdefault("overwrite", True)
        return import_sources(given, tmp_path / "out", **options)

    return load


def outputs_are(report, split="pool", expected=X):
    rows = report.data.splits[split]
    np.testing.assert_array_equal(rows.array("outputs"), expected)


#: Arrays of an .npz, options -> outputs by split, unit and values of the cost, notes
POOL = {"labels": Y, "costs": COSTS, "names": ["a", "b", "c"], "seed": 1}
SHARES = {"shares": {"fit": 0.25, "calibrate": 0.25, "test": 0.5}, "seed": 3}
SPLITS = {
    "train_logits": KNC, "val_logits": KNC + 1, "val_labels": Y, "cal_logits": KNC + 2, "cal_labels": Y,
    "test_logits": KNC + 3, "test_labels": Y, "fog_heavy_logits": KNC + 4, "weights": Y,
    "costs": COSTS, "unit": "MMACs", "cost_kind": "standalone",
}  # fmt: skip
TRAINED = {"train_logits": X, "train_labels": Y, "test_logits": X + 1, "test_labels": Y}
READ = {
    "KNC": ({"logits": KNC, **POOL}, SHARES, {"pool": X}, ("units", (1, 2, 4)),
            ["axes read as KNC (fits 60 labels)", "read as cumulative", "unit unknown"]),
    "NKC": ({"logits": X, **POOL}, SHARES, {"pool": X}, ("units", (1, 2, 4)),
            ["axes read as NKC (fits 60 labels)"]),
    "prefixes and streams": (
        SPLITS, {"axes": "KNC"},
        {"train": X, "fit": X + 1, "calibrate": X + 2, "test": X + 3, "fog_heavy": X + 4}, ("MMACs", (1, 3, 7)),
        ["'fog_heavy' shares the labels of test", "'weights' is not known"],
    ),
    "training rows where nothing else fits": (
        TRAINED, {}, {"fit": X, "test": X + 1}, ("exits", (1, 2, 3)),
        ["held-out rows (val_) are better", "NO COSTS STATED"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_npz(tmp_path, load, name):
    arrays, options, splits, (unit, values), notes = READ[name]
    np.savez(tmp_path / "a.npz", **arrays)
    report = load("a.npz", **options)
    data, told = report.data, "\n".join(report.notes)
    assert set(data.splits) == set(splits)
    for split, expected in splits.items():
        outputs_are(report, split, expected)
        if split != "train" or "train_labels" in arrays:
            np.testing.assert_array_equal(data.splits[split].array("labels"), Y)
    assert (data.cost().unit, data.cost().values) == (unit, values)
    assert all(note in told for note in notes) and ("not known" in told) == ("weights" in arrays)
    assert data.metadata.get("names") == arrays.get("names") and "NO LABELS" not in told
    if "shares" in options:
        assert data.split_names == ("fit", "calibrate", "test") and data.split_seed == 3
    assert open_cache(tmp_path / "out").fingerprint == data.fingerprint


def test_two_files_are_two_splits(tmp_path, load):
    np.savez(tmp_path / "a.npz", probs=P, labels=Y, costs=COSTS)
    np.savez(tmp_path / "b=c.npz", outputs=P[:, :, ::-1], labels=Y, costs=COSTS)
    report = load(f"val={tmp_path}/a.npz", f"test={tmp_path}/b=c.npz", unit="J", axes="NKC")
    assert report.data.kind == "probabilities" and set(report.data.splits) == {"fit", "test"}
    assert "outputs read as probabilities" in "\n".join(report.notes)
    refuses("--overwrite", load, "a.npz", overwrite=False)
    refuses(r"fit=A test=B", load, "a.npz", str(tmp_path / "b=c.npz"), axes="NKC")
    assert set(open_cache(tmp_path / "out").splits) == {"fit", "test"}  # still the old one


def test_records_npz_with_log_confidence(tmp_path, load):
    log = np.log(CONF).T
    log[1, 5] = -np.inf
    np.savez(
        tmp_path / "a.npz", conf_logprob=log, pred=PRED.T, correct=CORRECT.T, labels=Y,
        cost_usd=CONF, latency_ms=CONF.T * 9, mean_cost_usd=CONF.mean(0),
    )  # fmt: skip
    report = load("a.npz", cost_kind="standalone", costs="latency_ms")
    rows = report.data.splits["pool"]
    assert rows.array("confidence")[5, 1] == 0
    np.testing.assert_allclose(rows.array("confidence")[6], CONF[6])
    found = [(c.name, c.unit) for c in report.data.costs]
    assert found == [("latency_ms", "ms"), ("cost_usd", "USD")]
    np.testing.assert_allclose(rows.array("cost:latency_ms"), np.cumsum(CONF * 9, axis=1))
    assert len(report.data.metadata["mean_cost_usd"]) == K


def test_npy_with_sidecars(tmp_path, load):
    np.save(tmp_path / "a.npy", KNC.astype(np.float16))
    kept = {"model": {"d": 1}, "layers": [[1], [2, 3]], "mean_" * 80 + "x": [1]}
    stated = {"costs": COSTS, "unit": "ms", "notes": "mine"}
    (tmp_path / "a.json").write_text(json.dumps(kept | stated))
    np.save(tmp_path / "a.labels.npy", Y)
    report = load("a.npy")
    outputs_are(report, expected=X.astype(np.float16))
    assert report.data.splits["pool"].array("outputs").dtype == np.float16
    assert report.data.metadata.items() > (kept | {"own_notes": "mine"}).items()
    assert report.data.cost().unit == "ms" and str(report.notes).count("is not known") == 2
    np.save(tmp_path / "b.npy", X)
    rows = load("b.npy", labels=tmp_path / "a.labels.npy").data.splits["pool"]
    np.testing.assert_array_equal(rows.array("labels"), Y)


def test_heads_are_imported_by_the_name_of_their_cost(tmp_path, load):
    np.savez(tmp_path / "a.npz", logits=KNC, labels=Y, costs=COSTS, latency_ms=COSTS)
    heads = ["cost=10%", "latency_ms=0.1,0.1,0"]
    report = load("a.npz", cost_kind="cumulative", head_cost=heads)
    alone = np.diff(COSTS, prepend=0.0)
    np.testing.assert_allclose(report.data.cost().heads, alone / 10)
    assert report.data.cost("latency_ms").heads == (0.1, 0.1, 0.0)
    refuses("not of a cascade", load, "a.npz", cost_kind="standalone", head_cost=0.1)


def test_safetensors_with_bfloat16(tmp_path, load):
    half = torch.tensor(X).bfloat16()
    save_torch({"logits": half, "labels": torch.tensor(Y)}, tmp_path / "a.safetensors")
    outputs_are(load("a.safetensors"), expected=half.float().numpy())
    save_file({"logits": X, "labels": Y}, tmp_path / "b.safetensors", {"unit": "J", "axes": "NKC"})
    outputs_are(load("b.safetensors", costs=COSTS))
    save_torch({"logits": half.to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    refuses("F8_E4M3.*Save it as float16", load, "a.safetensors")


def test_torch_files(tmp_path, load):
    x, y = torch.tensor(np.ascontiguousarray(KNC)), torch.tensor(Y)
    forms = {
        "tensor.pt": (x, {"labels": Y}, "pool"),
        "dict.pt": ({"logits": x.bfloat16().float(), "labels": y, "costs": COSTS}, {}, "pool"),
        "exits.pt": ({"logits": list(x), "labels": y}, {}, "pool"),
        "list.pth": (list(x), {"labels": Y}, "pool"),
        "pair.pt": ([x, y], {}, "pool"),
        "named.pt": ({"logits": {"a": x[0], "b": x[1], "c": x[2]}, "y_true": y}, {}, "pool"),
        "by split.pt": (
            {"val": {"logits": x}, "test": {"logits": x + 1}, "labels": y},
            {"labels": Y},
            "fit",
        ),
        "msdnet.pth": ([x, y, x + 1, y], {}, "fit"),
    }
    for name, (content, options, split) in forms.items():
        torch.save(content, tmp_path / name)
        report = load(name, **options)
        assert report.data.splits[split].array("outputs").shape == (N, K, C)
        np.testing.assert_array_equal(report.data.splits[split].array("labels"), Y)
    assert set(report.data.splits) == {"fit", "test"}
    outputs_are(report, "test", X + 1)
    torch.save([y, x], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refuses("val_pred", load, "old.pth")


def write_table(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        frame.to_parquet(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_long_records(tmp_path, load, suffix):
    shuffled = LONG.iloc[np.random.default_rng(1).permutation(N * K)]
    write_table(shuffled, tmp_path / f"a{suffix}")
    report = load(f"a{suffix}", unit="MMACs")
    assert {name: len(rows) for name, rows in report.data.splits.items()} == {"test": 30, "fit": 30}
    rows = report.data.splits["fit"]
    # samples stand in the order of their first row
    order = [int(q[1:]) for q in shuffled["sample"].unique() if int(q[1:]) < 30]
    np.testing.assert_allclose(rows.array("confidence"), CONF[order], atol=1e-14)
    np.testing.assert_array_equal(rows.array("prediction"), PRED[order])
    np.testing.assert_array_equal(rows.array("correct"), CORRECT[order])
    assert rows.array("cost:cost_usd").shape == (30, K)
    assert report.data.cost().values == (1, 2, 4)  # the same for every sample: per exit
    assert "'prompt' is not known: not used" in "\n".join(report.notes)


def test_jsonl_of_logits(tmp_path, load):
    lines = [
        json.dumps({"idx": i, "logits": X[i].tolist(), "label": int(Y[i]), "split": s, "context": i % 3})
        for i, s in enumerate(["valid"] * 30 + ["test"] * 30)
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    report = load("a.jsonl", costs="1,2,4", unit="layers", cost_kind="cumulative")
    outputs_are(report, "test", X[30:])
    assert report.data.splits["test"].array("context").tolist() == [0, 1, 2] * 10
    assert report.data.contexts == ("0", "1", "2")
    assert [n for n in report.notes if "axes" in n] == []
    lines[7] = lines[7].replace('"logits": [[', '"logits": [[9.0, ')
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    refuses("line 8", load, "a.jsonl")


def test_what_is_stated_decides(tmp_path, load):
    np.savez(tmp_path / "a.npz", logits=X[:K], labels=Y[:K])
    assert load("a.npz", axes="NKC").data.exits == K
    np.savez(tmp_path / "a.npz", probs=X)
    report = load("a.npz", kind="logits", axes="NKC")
    assert report.data.kind == "logits" and "NO LABELS" in str(report.notes)
    np.savez(tmp_path / "a.npz", val_logits=X, val_labels=Y)
    refuses("fit=", load, f"fit={tmp_path}/a.npz")


TABLES = {
    "missing row": (LONG.drop(index=7), "sample q2, exit 1"),
    "last row missing": (LONG.iloc[:-1], "sample q59, exit 2"),
    "double row": (pd.concat([LONG, LONG.iloc[[7]]]), "second row for sample q2, exit 1"),
    "exits from 2": (LONG.assign(exit=LONG["exit"] + 2), "sample q0, exit 0"),
    "huge exit": (LONG.assign(exit=10**12), "0 to K-1"),
    "label varies": (LONG.assign(label=np.arange(N * K)), "one value per sample"),
    "text": (LONG.assign(pred="A"), "names such as A.*both as names, or both as numbers"),
    "text for numbers": (LONG.assign(conf="high"), "numbers.*'high' in row 0"),
    "split gap": (LONG.assign(split=None), "split"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_that_do_not_add_up(tmp_path, load, name, suffix):
    frame, match = TABLES[name]
    write_table(frame, tmp_path / f"a{suffix}")
    refuses(match, load, f"a{suffix}", unit="ms")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("wide", [False, True])
def test_the_last_exit_needs_no_confidence(tmp_path, load, suffix, wide):
    """In any table that last column may lack or be empty; of others the message names what lacks."""
    frame = LONG[["sample", "exit", "conf", "pred", "label"]]
    if wide:
        columns = {
            f"{name}_{k}": a[:, k] for name, a in (("conf", CONF), ("pred", PRED)) for k in range(K)
        }
        frame = pd.DataFrame({**columns, "label": Y})
    lacks = (
        frame.drop(columns="conf_2")
        if wide
        else frame.assign(conf=frame["conf"].mask(frame["exit"] == 2))
    )
    empty = frame.assign(conf_2=None) if wide else lacks
    for table in (lacks, empty):
        write_table(table, tmp_path / f"a{suffix}")
        report = load(f"a{suffix}", costs=COSTS)
        found = report.data.splits["pool"].array("confidence")
        np.testing.assert_allclose(found, np.column_stack([CONF[:, :2], np.ones(N)]), atol=1e-14)
        assert "exit 2 has no confidence; it needs none" in str(report.notes)
    if wide:
        for column in ("conf_0", "conf_1", "pred_0", "pred_2"):
            write_table(frame.drop(columns=column), tmp_path / f"a{suffix}")
            refuses(f"Add {column};", load, f"a{suffix}")
    else:
        no_answer = frame["sample"] == "q3"
        some = frame.assign(conf=frame["conf"].mask(no_answer), pred=frame["pred"].mask(no_answer))
        write_table(some, tmp_path / f"a{suffix}")
        report = load(f"a{suffix}", costs=COSTS)
        rows, told = report.data.splits["pool"], str(report.notes)
        assert rows.array("confidence")[3].tolist() == [0] * K and "conf: 3 missing" in told
        assert rows.array("prediction")[3].tolist() == [-1] * K and "missing, taken as -1" in told


def test_arrays_without_the_last_confidence(tmp_path, load):
    for conf in (CONF[:, :2], np.column_stack([CONF[:, :2], np.full(N, np.nan)])):
        np.savez(tmp_path / "a.npz", conf=conf, pred=PRED, labels=Y)
        assert (
            load("a.npz", costs=COSTS).data.splits["pool"].array("confidence")[:, 2].tolist()
            == [1] * N
        )
    np.savez(tmp_path / "a.npz", conf=CONF[:, :1], pred=PRED, labels=Y)
    refuses("2 of 3. Got confidence of 1 exits, prediction of 3", load, "a.npz", costs=COSTS)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_other_names(tmp_path, load, suffix):
    write_table(
        pd.DataFrame({"small_score": CONF[:, 0], "big_ok": CORRECT[:, 2]}), tmp_path / f"a{suffix}"
    )
    refuses("Got small_score, big_ok. Long: .*Wide: .*conf_0", load, f"a{suffix}")
    if suffix == ".jsonl":
        (tmp_path / "a.jsonl").write_text(json.dumps({"scores": [0.1, 0.2], "oks": [1, 0]}))
        refuses("Got scores, oks", load, "a.jsonl")


def store(path, form):
    """Write two splits with features and contexts."""
    arrays = keyed(40, 0, "val_") | keyed(30, 1, "test_")
    rest = {k: a for k, a in arrays.items() if "features" not in k}
    lists = {s: [arrays[f"{s}_features_{k}"] for k in range(3)] for s in ("val", "test")}
    if form == ".npz":
        np.savez(path, **arrays, contexts=NAMES)
    elif form == "stacked.npz":  # one array of all exits' vectors, of the least width
        stacked = {f"{s}_features": np.stack([a[:, :2] for a in each]) for s, each in lists.items()}
        np.savez(path, **rest, **stacked, contexts=NAMES)
    elif form == ".pt":  # a list of the exits' vectors: their widths differ
        rest |= {f"{s}_features": list(map(torch.tensor, each)) for s, each in lists.items()}
        tensors = {k: torch.tensor(a) if "features" not in k else a for k, a in rest.items()}
        torch.save({**tensors, "contexts": list(NAMES)}, path)
    elif form == ".npy":
        np.save(path, arrays.pop("val_logits"))
        beside = {k[4:]: a.tolist() for k, a in arrays.items() if k[:4] == "val_"}
        path.with_suffix(".json").write_text(json.dumps(beside | {"contexts": NAMES}))
    else:  # which holds numbers only
        save_file(arrays, path)


@pytest.mark.parametrize("form", [".npz", "stacked.npz", ".pt", ".npy", ".safetensors"])
def test_features_and_contexts_are_imported_and_shown(tmp_path, load, form, run):
    path, names = tmp_path / f"a{form}", NAMES if form != ".safetensors" else ("0", "1", "2")
    store(path, form)
    report = load(path.name, costs="1,2,3", unit="ms", axes="KNC")
    widths = (2, 2, 2) if "stacked" in form else WIDTHS
    assert report.data.contexts == names and report.data.feature_widths == widths
    assert any("called 0, 1, 2" in note for note in report.notes) == (names[0] == "0")
    rows = report.data.splits["pool" if form == ".npy" else "fit"]
    context = batch(40)["context"]
    np.testing.assert_array_equal(rows.array("context"), context)
    for k, array in enumerate(batch(40)["features"]):
        np.testing.assert_array_equal(rows.array(f"features:{k}"), array[:, : widths[k]])
    code, out, _ = run("info", tmp_path / "out", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["contexts"] == list(names) and found["features"] == list(widths)
    if form != ".npy":
        fit = next(one for one in found["splits"] if one["split"] == "fit")
        assert fit["context_share"] == pytest.approx(np.bincount(context, minlength=3) / 40)
    told = run("info", tmp_path / "out")[1]
    assert f"context: {', '.join(names)}" in told and f"width {widths[0]}," in told


#: Arrays of a file (None: left out) -> what the message must match
REFUSED = {
    "prefix on some": ({"logits": X, "labels": Y, "test_logits": X}, "prefix"),
    "val and fit": ({"val_logits": X, "fit_logits": X}, "val and fit mean the same"),
    "logits": ({"probs": X, "labels": Y}, "kind='logits'"),
    "values": ({"values": X[..., 0], "labels": Y}, "--kind regression"),
    "values by the name of predictions": ({"pred": X[..., 0], "labels": Y}, "Add conf.*--kind regression"),
    "one cost": ({"logits": X, "labels": Y, "cost": 1.0}, r"of shape \(3,\).*one number"),
    "exit missing": (keyed(40) | {"features_1": None}, r"of every exit, 0 to 2.*missing \['features:1'\]"),
    "exit too many": (keyed(40) | {"features_3": np.ones((40, 2))}, r"superfluous \['features:3'\]"),
    "row missing": (keyed(40) | {"features_1": np.ones((39, 2))}, r"exit 1' must be of shape \(40, D\)"),
    "one axis": (keyed(40) | {"features_1": np.ones(40)}, r"exit 1' must be of shape"),
    "no width": (keyed(40) | {"features_1": np.ones((40, 0))}, r"exit 1' must be of shape"),
    "NaN": (keyed(40) | {"features_2": np.full((40, 7), np.nan)}, r"nan in column 0 at row 0 of"),
    "overflow": (keyed(40) | {"features_0": np.full((40, 2), 1e39)}, r"finite in float32"),
    "text": (keyed(40) | {"features_0": np.full((40, 2), "x")}, r"array of numbers"),
    "an exit by another name": ({f"exit_{k}": X[:, k] for k in range(2)} | {"exit_main": X[:, 2]}, "exit_main.*list"),
    "one exit of probabilities": ({"logits": np.stack([X[:, 0], P[:, 1]], 1), "labels": Y}, "at exit 1.*every exit"),
    "percent for logits": ({"logits": 100 * P, "labels": Y}, "sum to 100.*Divide by 100"),
    "samples for exits": ({f"q{i}_{k}": a[i] for i in range(N) for k, a in (("conf", CONF), ("correct", CORRECT))},
                          "60 exits, 3 rows"),
    "batches": ({"logits": X[:, :2], "labels": np.stack([Y, Y[::-1]], 1)}, "concatenate"),
    "answers unlike the labels": ({"conf": CONF, "pred": np.array(list("pqrst-"))[PRED], "labels": np.array(list("ABCDE"))[Y]},
                                  "such as -, p.* and labels such as A, B.*Write both alike"),
    "exits of splits": ({f"{s}_{n}": X[:, k] for s in ("val", "test") for k, n in enumerate("ab")},
                        "--key val_outputs=val_a,val_b --key test_outputs=test_a,test_b"),
    "class numbers without confidences": ({"pred": PRED, "labels": Y}, r"Add conf beside pred\. If it is \(N, C\)"),
    "one array too": (keyed(40) | {"features": np.zeros((3, 40, 2))}, r"one array with axes KND"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_contradict_each_other(tmp_path, load, name):
    arrays, said = REFUSED[name]
    np.savez(tmp_path / "a.npz", **{k: a for k, a in arrays.items() if a is not None})
    refuses(said, load, "a.npz", unit="ms")
    assert not (tmp_path / "out").exists()


#: Writers of files, options -> array of the cache, what it must be, and what must be told
MEANT = {
    "numbers as text": (  # whose order is not that of the alphabet
        {"a.npz": {"logits": np.tile(X, (1, 1, 3)), "labels": np.char.mod("%d", Y + 9)}}, {}, "labels", Y + 9, "10 = 10",
    ),
    "missing labels": ({"a.npz": {"logits": X, "labels": np.where(Y == 2, np.nan, Y)}}, {}, "labels",
                       np.where(Y == 2, -1, Y), "have no label"),
    "labels of every exit": ({"a.npz": {"logits": KNC, "labels": np.tile(Y, (K, 1))}}, {}, "labels", Y, ""),
    "the last exit by name": ({"a.npz": {"exit1": X[:, 0], "exit2": X[:, 1], "final": X[:, 2], "y": Y}}, {}, "outputs", X,
                              "final taken as the last exit"),
    "labels among the exits": ({f"e{k}.npy": X[:, k] for k in range(K)} | {"y.npy": Y}, {"exits": True}, "labels", Y,
                               "y.npy: read as labels"),
    "labels apart by another key": (
        {f"e{k}.npy": X[:, k] for k in range(K)} | {"y.npz": {"y_true": Y}},
        {"exits": True},
        "labels",
        Y,
        "in this order: e0, e1, e2",
    ),
    "spelled in two ways": ({"a.npz": {"logits": X[:, 0], "labels": Y}, "b.npz": {"logits": X[:, 1], "label": Y}},
                            {"exits": True}, "outputs", X[:, :2], ""),
}  # fmt: skip


SPELLED = [
    ' "The  Ibis. "',
    "IBIS",
    "the ibis,",
    "\uff49\uff42\uff49\uff53",
    "`ibis`",
    "**Ibis**",
    "“ibis”",
    "(ibis)",
]


def test_answers_that_mean_the_same(tmp_path, load):
    """Free text, and names of classes: case, width, spaces, quotes, full stops and "the" are none of the answer."""
    said = [
        (f"q{i}", "a", text, 0.9, "the ibis" if i % 2 else "Ibis") for i, text in enumerate(SPELLED)
    ]
    said += [
        (i, "b", "ibis" if k % 3 else "emu", 0.5, gold) for k, (i, _, _, _, gold) in enumerate(said)
    ]
    head = ["question_id", "model", "answer", "confidence", "gold_answer"]
    others = [
        (f"o{i}", m, f"bird {i}", 0.4, f"bird {i + (m == 'b')}") for i in range(20) for m in "ab"
    ]
    others[0], others[3] = ("o0", "a", "", 0.8, "bird 0"), ("o1", "b", None, 0.7, "bird 1")
    others = [(*row[:4], f"bird {row[0][1:]}") for row in others]
    for ending, rows in (
        ("csv", said + others),
        ("jsonl", said + others),
        ("tsv", [(*row[:4], "Ibis") for row in said]),
    ):
        table, path = pd.DataFrame(rows, columns=head), tmp_path / f"calls.{ending}"
        if ending == "jsonl":
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
        data = load(path.name, cost_kind="standalone", costs=[1.0, 2.0]).data
        kept, told = data.splits["pool"], "class_names" in data.metadata
        assert told == (ending == "tsv")
        numbers = kept.array("prediction")
        right = (
            numbers == kept.array("labels")[:, None] if told else kept.array("correct").astype(bool)
        )
        same = np.arange(len(SPELLED)) % 3 != 0
        np.testing.assert_array_equal(
            numbers[: len(SPELLED), 0] == numbers[: len(SPELLED), 1], same
        )
        np.testing.assert_array_equal(right[: len(SPELLED), 1], same)
        assert right[: len(SPELLED), 0].all()
        if ending != "tsv":  # who gave no answer is wrong, and the least sure
            gone = numbers < 0
            assert np.argwhere(gone).tolist() == [[len(SPELLED), 0], [len(SPELLED) + 1, 1]]
            assert not right[gone].any() and not kept.array("confidence")[gone].any()
    # The last exit may lack a confidence, names of classes answers too.
    texts = np.char.add(np.array(["cat", "dog", "emu"])[Y % 3][:, None], ["", ".", "!"])
    texts[:, 2], texts[3, 1] = np.array(["Cat", "DOG", "emu"])[Y % 3], ""
    wide = {f"answer_{k}": texts[:, k] for k in range(K)} | {
        f"conf_{k}": CONF[:, k] for k in range(2)
    }
    pd.DataFrame(wide | {"gold": np.array(["cat", "dog", "emu"])[Y % 3]}).to_csv(
        tmp_path / "w.csv", index=False
    )
    kept = load("w.csv").data.splits["pool"]
    assert (kept.array("prediction") == np.where(texts == "", -1, (Y % 3)[:, None])).all()
    np.testing.assert_allclose(
        kept.array("confidence")[:, :2], np.where(texts == "", 0, CONF)[:, :2], rtol=1e-6
    )
    for one, other in (
        ("-5%", "5%"),
        (".5", "5"),
        ("C++", "C"),
        ("n!", "n"),
        ("a cat", "cat"),
        ("$5", "5"),
    ):
        assert same_answer(one) != same_answer(other)


@pytest.mark.parametrize("name", MEANT)
def test_what_is_meant(tmp_path, load, name):
    files, options, array, expected, told = MEANT[name]
    for file, content in files.items():
        if isinstance(content, dict):
            np.savez(tmp_path / file, **content)
        else:
            np.save(tmp_path / file, content)
    report = load(*files, **options)
    np.testing.assert_array_equal(report.data.splits["pool"].array(array), expected)
    assert told in str(report.notes) and (
        not options or len(report.data.names) == report.data.exits
    )


def test_exits_and_rows_in_other_orders(tmp_path, load, run):
    """Exits are told by their numbers and names, rows by their ids, from the file to the decision."""
    for k in range(11):
        np.savez(tmp_path / f"exit{k}.npz", logits=X[:, k % K], labels=Y)
    files = sorted(path.name for path in tmp_path.glob("*.npz"))
    refuses(
        "--exits exit0.npz exit1.npz exit2.npz .* exit9.npz exit10.npz", load, *files, exits=True
    )
    long = LONG.assign(exit=[f"exit_{k + 9}" for k in LONG["exit"]])[::-1][
        ["sample", "exit", "conf", "pred"]
    ]
    write_table(long, tmp_path / "a.csv")  # exit_11 first, and in the alphabet
    assert load("a.csv").data.names == ("exit_9", "exit_10", "exit_11")
    frame = pd.DataFrame(
        {
            f"{n}_{c}": a[:, k]
            for k, n in enumerate("sml")
            for c, a in (("conf", CONF), ("pred", PRED))
        }
    )
    frame["label"] = Y
    write_table(frame, tmp_path / "val.csv")
    write_table(frame[[*frame.columns[::-1]]] + 0, tmp_path / "test.csv")
    splits = [f"{split}={tmp_path}/{split}.csv" for split in ("val", "test")]
    refuses("in one order: s, m, l, as in val.csv.*l, m, s in test.csv", load, *splits)
    load("val.csv", costs=COSTS)
    assert run("fit", tmp_path / "out", *AT_60, tmp_path / "p.json")[0] == 0
    assert run("run", tmp_path / "p.json", tmp_path / "val.csv")[0] == 0
    code, _, err = run("run", tmp_path / "p.json", tmp_path / "test.csv")
    assert code == 2 and "in one order: s, m, l, as in p.json" in err
    np.savez(tmp_path / "a.npz", logits=X)
    write_table(pd.DataFrame({"id": range(N), "label": Y}), tmp_path / "y.csv")
    np.testing.assert_array_equal(
        load("a.npz", labels=tmp_path / "y.csv").data.splits["pool"].array("labels"), Y
    )
    write_table(pd.DataFrame({"id": range(N), "label": Y})[::-1], tmp_path / "y.csv")
    refuses(
        "ids 59, 58, 57.*to the order of the outputs' rows",
        load,
        "a.npz",
        labels=tmp_path / "y.csv",
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_missing_among_logarithms_and_numbers(tmp_path, load, suffix, run):
    """A missing log confidence is the least sure, not 0, the surest; NA among numbers is no class."""
    conf, pred = np.log(CONF).astype(object), PRED.astype(object)
    conf[3, 0], pred[5, 1] = None, "N/A"
    columns = {
        f"{name}_{k}": a[:, k] for name, a in (("conf", conf), ("pred", pred)) for k in range(K)
    }
    frame = pd.DataFrame({**columns, "label": Y})
    write_table(frame, tmp_path / f"a{suffix}")
    report = load(f"a{suffix}", costs=COSTS)
    rows = report.data.splits["pool"]
    expected = np.where(np.equal(conf, None), 0, CONF)
    np.testing.assert_allclose(rows.array("confidence"), expected, atol=1e-12)
    assert rows.array("prediction")[5, 1] == -1 and "pred_1: 1 missing" in str(report.notes)
    assert run("fit", tmp_path / "out", *AT_60, tmp_path / "p.json")[0] == 0
    assert run("run", tmp_path / "p.json", tmp_path / f"a{suffix}")[0] == 0  # logarithms there, too


def test_what_is_odd_about_one_exit(tmp_path, load):
    """Masks of large numbers, and an exit whose rows are in another order, are told."""
    outputs = X + 4 * np.eye(C, dtype="f4")[Y][:, None]
    masked = np.where(
        (np.arange(N) < 20)[:, None, None] & (np.arange(C) == Y[:, None])[:, None], -1e9, outputs
    )
    np.savez(tmp_path / "a.npz", logits=masked.astype("f4"), labels=Y)
    assert "20 of 60 rows have a true class that some exit rules out" in str(load("a.npz").notes)
    outputs[:, 2] = np.roll(outputs[:, 2], 7, axis=0)
    np.savez(tmp_path / "a.npz", logits=outputs, labels=Y)
    notes = str(load("a.npz").notes)
    assert "exit 2 is right no more often" in notes and "exit 1 is" not in notes


def test_files_that_disagree_about_contexts(tmp_path, load):
    np.savez(tmp_path / "a.npz", **keyed(20), contexts=np.array(NAMES))
    np.savez(tmp_path / "b.npz", **keyed(20, 1), contexts=np.array(NAMES[::-1]))
    refuses("contexts' must be the same", load, f"fit={tmp_path}/a.npz", f"test={tmp_path}/b.npz")
    named = {k: a for k, a in keyed(20).items() if k != "context"}
    np.savez(tmp_path / "n.npz", **named, contexts=np.array(NAMES))
    report = load("n.npz")
    assert report.data.contexts == () and any("no row has one" in note for note in report.notes)


@pytest.mark.parametrize("form", ["a.npz", "a.csv", "a.jsonl"])
def test_contexts_as_texts(tmp_path, load, form):
    """Numbered in the order of the alphabet, or of the file's own list, which must have them all."""
    named = np.array(["night", "day", "day"])[np.arange(N) % 3]
    arrays, rows = {"conf": CONF, "correct": CORRECT, "context": named}, []
    for conf, correct, context in zip(CONF.tolist(), CORRECT.tolist(), named.tolist(), strict=True):
        rows.append({"conf": conf, "correct": correct, "context": context})
    wide = {f"{n}_{k}": arrays[n][:, k] for n in ("conf", "correct") for k in range(K)}
    np.savez(tmp_path / "a.npz", **arrays)
    pd.DataFrame({**wide, "context": named}).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(form, axes="NKC" if form == "a.npz" else None).data
    assert data.contexts == ("day", "night")
    assert data.splits["pool"].array("context").tolist() == [1, 0, 0] * (N // 3)
    if form == "a.npz":
        np.savez(tmp_path / form, **arrays, contexts=np.array(["night", "dusk", "day"]))
        data = load(form, axes="NKC").data
        assert data.contexts == ("night", "dusk", "day")
        assert data.splits["pool"].array("context").tolist() == [0, 2, 2] * (N // 3)
        np.savez(tmp_path / form, **arrays, contexts=np.array(["day", "dusk"]))
        refuses("a.npz: context' must be one of day, dusk. Got night", load, form)


def test_layouts_and_containers(root, monkeypatch, run):
    """All are read, or refused with a next step that leads to the same cache; the page says which."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    import layouts

    written = (root / "docs" / "layouts.md").read_text()
    assert len(list(layouts.layouts())) >= 40
    assert written == layouts.page(run), "run python benchmarks/layouts.py"


def test_what_is_known_before_any_model_is_asked(tmp_path, load, run):
    """A key query in any file, its columns by number, spelling or name; texts are told and left out."""
    known = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    marks = {f"correct_{k}": CORRECT[:, k].astype(int) for k in range(K)}
    numbered = pd.DataFrame({**marks, "query_0": known[:, 0], "query_1": known[:, 1]})
    long = pd.DataFrame({
        "sample": np.repeat(range(N), K), "exit": np.tile(range(K), N), "correct": CORRECT.ravel(),
        "query_0": np.repeat(known[:, 0], K), "query_1": np.repeat(known[:, 1], K),
    })  # fmt: skip
    numbered.assign(query="who?").to_csv(tmp_path / "wide.csv", index=False)
    numbered.to_parquet(tmp_path / "a.parquet")
    long.to_csv(tmp_path / "long.csv", index=False)
    torch.save({"correct": torch.tensor(CORRECT), "query": torch.tensor(known)}, tmp_path / "a.pt")
    np.savez(tmp_path / "b.npz", **{
        f"{s}_{name}": a[rows] for s, rows in (("val", slice(30)), ("test", slice(30, N)))
        for name, a in (("correct", CORRECT), ("query", known))
    })  # fmt: skip
    named = {"keys": {"query": ["query_1", "query_0"]}}
    for file, options, wanted in (
        ("wide.csv", {}, known), ("a.parquet", {}, known), ("long.csv", {}, known),
        ("a.pt", {"axes": "NK"}, known), ("wide.csv", named, known[:, ::-1]),
        ("b.npz", {"axes": "NK"}, known),
    ):  # fmt: skip
        found = load(file, **options)
        splits = found.data.splits.values()
        np.testing.assert_allclose(np.concatenate([r.array("query") for r in splits]), wanted)
        assert (file == "wide.csv" and not options) == any("holds texts" in n for n in found.notes)
        assert any("NO CONFIDENCES" in note for note in found.notes)
    code, out, _ = run("info", tmp_path / "out", "--format", "json")
    assert code == 0 and json.loads(out)["query"] == 2
    answers = {
        f"pred_{k}": PRED[:, k] for k in range(K)
    }  # no marks either: labels tell what they are worth
    pd.DataFrame({**answers, "label": Y, "router_score": known[:, 0]}).to_csv(tmp_path / "c.csv")
    for data in (load("c.csv").data, from_arrays(prediction=PRED, labels=Y, query=known[:, 0])):
        rows = data.splits["pool"]
        np.testing.assert_array_equal(exit_statistics(rows, data.kind).quality, CORRECT)
        np.testing.assert_allclose(rows.array("query"), known[:, :1])
    given = {"correct": CORRECT, "query": known}
    for change, told in (
        ({"query": known[1:]}, "of shape"), ({"query": known * np.nan}, "nan in column 0 at row 0"),
        ({"query": known[:, :0]}, "of shape"),
        ({"val_correct": CORRECT, "val_query": known[:, :1], "correct": None, "query": None,
          "test_correct": ~CORRECT, "test_query": known}, "1 numbers, as in the rows before"),
    ):  # fmt: skip
        arrays = {k: a for k, a in {**given, **change}.items() if a is not None}
        np.savez(tmp_path / "bad.npz", **arrays)
        refuses(told, load, "bad.npz", axes="NK")


@pytest.mark.parametrize(
    ("file", "options", "rows", "ends"),
    [
        ("cifar10_cascade5", {"cost_kind": "standalone", "unit": "MFLOPs"}, 10_000, (90.7, 95.3)),
        ("alexnet2_cifar10_confidence", {}, 10_000, (72.8, 90.6)),
        # The README beside the files says 72.0 / 79.6; the file itself holds these.
        ("resnet8_2exit_cifar10", {}, 10_000, (73.7, 78.3)),
        ("mmlu_llama5_test", {"cost_kind": "standalone"}, 1531, (42.5, 85.2)),
    ],
)
def test_real_files(shared_data, load, file, options, rows, ends):
    report = load(shared_data / f"{file}.npz", **options)
    pool = report.data.splits["pool"]
    assert len(pool) == rows
    right = exit_statistics(pool, report.data.kind).quality.mean(axis=0)
    assert 100 * right[[0, -1]] == pytest.approx(ends, abs=0.051)
    assert any("axes read as KN" in note for note in report.notes)
    assert any("NO COSTS" in note for note in report.notes) == (not options)


def test_a_folder_is_its_files_and_costs_may_name_their_order(tmp_path, load):
    """Files of models, and one of labels, by name or as the costs say; what is no such file is left."""
    folder = tmp_path / "models"
    (folder / "more").mkdir(parents=True)
    with pytest.raises(InputError, match="Name a file in it"):
        load("models")
    for name, text in {"README.md": "x", ".part.npy": "x"}.items():
        (folder / name).write_text(text)
    np.save(folder / "labels.npy", Y)
    for k, name in enumerate(("m2", "m10", "m1")):
        np.save(folder / f"{name}.npy", X[:, k])
    for costs, order in ((COSTS, [2, 1, 0]), ("m2=4, m1=2,m10=1", [0, 2, 1])):
        report = load("models", costs=costs, cost_kind="standalone")
        outputs_are(report, expected=X[:, order])
        assert report.data.names == tuple(["m2", "m10", "m1"][k] for k in order)
        wanted = COSTS if costs is COSTS else [4, 2, 1]
        assert report.data.cost().values == tuple(np.cumsum(wanted))
        assert (report.data.splits["pool"].array("labels") == Y).all()
    (folder / "m1.json").write_text('{"kind": "logits"}')  # a sidecar is no model
    assert load("models").data.names == ("m1", "m10", "m2")
    table = "sample,model,conf,correct\n" + "\n".join(
        f"{n},{m},0.5,1" for n in range(4) for m in "ab"
    )
    (tmp_path / "a.csv").write_text(table)
    assert load("a.csv", costs="b=4,a=1", cost_kind="standalone").data.cost().values == (1, 5)
    for wrong in ("m1=1,m2=2", "m1=1,m2=2,m10=3,m11=4", "m1=1,m2=2,3", "m1=1,m2=2,m10=x"):
        with pytest.raises(InputError, match="'costs' must be"):
            load("models", costs=wrong)


def test_groups_of_rows_without_any_text(tmp_path, load):
    """Labels as text beside lists: in some row groups of a .parquet all lack, which changes nothing."""
    pred = [["x", "y"], ["x", None], [None, None], ["y", "x"]]
    frame = pd.DataFrame({"conf": [[0.6, 0.7]] * 4, "pred": pred, "label": ["x", None, "y", ""]})
    found = []
    for rows in (1, 4):
        frame.to_parquet(tmp_path / "a.parquet", row_group_size=rows)
        made = load("a.parquet")
        arrays = [
            made.data.splits["pool"].array(name).tolist() for name in ("prediction", "correct")
        ]
        found.append((arrays, made.notes))
    assert found[0] == found[1]
