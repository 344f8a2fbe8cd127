"""Files from strangers: nothing runs, nothing huge is allocated, every end is an InputError, honest ones are read.

Bombs are read in a child of limited memory: what would allocate and be refused afterwards is caught too.
"""

import gzip
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refuses
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import damaged
from safetensors.numpy import save as save_safetensors

from policyopt._cache import table_files
from policyopt._cache.exits import by_exit
from policyopt._cache.importers import import_sources, read_file
from policyopt.runtime._errors import InputError
from policyopt.runtime._sizes import FREE, VARIABLE, free_memory

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(2, 12, 3)).astype(np.float32), rng.integers(0, 3, 12)
CHILD = r"""
import json, re, resource, sys
from pathlib import Path
import pandas, pyarrow.parquet, torch, safetensors
from policyopt._cache import table_files
from policyopt._cache.importers import import_sources
from policyopt.runtime._errors import InputError

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10

now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]),) * 2)
before = peak()
for place in sorted(Path("files").iterdir()):
    try:
        import_sources(place, place.name, costs="1,2", unit="ms")
        end = "imported"
    except InputError as error:
        end = f"refused: {error}"
    except BaseException as error:
        end = f"{type(error).__name__}: {error}"
    print(json.dumps([place.name, end, peak() - before]))
"""


def refused(path, match, content=None, **options):
    """Import a file, which may have to be written first, and fail unless it is refused by name."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    refuses(match, import_sources, path, path.parent / "out", **options)
    assert not (path.parent / "out").exists()


def npz_of_zeros(shape):
    file = io.BytesIO()
    np.savez_compressed(file, logits=np.broadcast_to(np.float32(0), shape))
    return file.getvalue()


def repacked(archive, changed, more, how=zipfile.ZIP_DEFLATED):
    """Return an archive with members changed (by the end of their name), and with more of them."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w", how) as new:
        for info in old.infolist():
            ours = (data for name, data in changed.items() if info.filename.endswith(name))
            new.writestr(info.filename, next(ours, old.read(info)))
        for name, data in more.items():
            new.writestr(name, data)
    return file.getvalue()


def parquet_of(columns, rows, groups=1, **how):
    """Return a table of columns, most of one value; confidences and predictions among them."""
    usual = {"conf_0": 0.5, "conf_1": 0.5, "pred_0": 1, "pred_1": 1}
    table = pa.table({
        name: v if isinstance(v, pa.Array) else pa.array([v] * rows)
        for name, v in (usual | columns).items()
    })  # fmt: skip
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema, **how) as writer:
        for _ in range(groups):
            writer.write_table(table, row_group_size=rows)
    return file.getvalue()


def bombs():
    """Return files by name, each of which asks for hundreds of megabytes or more."""
    padding, flat, long = os.urandom(3 << 20), npz_of_zeros((2, 3 * 10**6, 10)), "x" * (1 << 20)
    fixed = pa.array([bytes(200_000)] * 2000, pa.binary(200_000))  # all equal: a dictionary of one
    thousand = ",".join(f"conf_{k}" for k in range(1000)).encode()
    halves = pa.ListArray.from_arrays(np.arange(0, 10**8 + 1, 1000, np.int32), np.full(10**8, 0.5))
    return {
        "padded.npz": repacked(flat, {}, {"more.bin": padding}),
        "prefixed.npz": padding + flat,
        "bare.npz": flat,
        "bare.pt": flat,
        "runs.parquet": parquet_of({}, 10**6, 8),
        "texts.parquet": parquet_of({"conf_0": long}, 200, compression="zstd"),
        "splits.parquet": parquet_of({"split": long}, 200, compression="zstd"),
        "fixed.parquet": parquet_of({"split": fixed}, 2000, compression="zstd", dictionary_pagesize_limit=1 << 30),
        "pages.parquet": parquet_of({"conf_0": "0" * 2000}, 60_000, compression="zstd", use_dictionary=False),
        "useless.csv": ",".join(f"x_{k}" for k in range(400_000)).encode() + b"\n1\n",
        "equal.csv": b"conf_0,conf_1,label" + b",x" * 16_000 + b"\n0.5,0.5,1\n",
        "splits.csv": b"conf_0,conf_1,pred_0,pred_1,split\n0.5,0.5,1,1," + b"x" * 10**5 + b"\n0.5,0.5,1,1,b" * 20_000,
        "short_rows.csv": thousand + b"\n1" * 250_000,
        "new_fields.jsonl": b'{"conf_0": 0.5, "conf_1": 0.6, "pred_0": 1, "pred_1": 1}\n'
        + b"".join(b'{"conf_%d": 1}\n' % k for k in range(10_000)),
        "short_rows.jsonl": json.dumps({f"conf_{k}": 0.5 for k in range(1000)}).encode() + b"\n{}" * 250_000,
        "one_line.jsonl": b'{"logits": [' + b"[]," * (6 << 20) + b"[]]}",
        "nested.jsonl": b'{"logits": ' + b"[" * 10**6 + b"\n",
        "nested.json": b'{"logits": ' + b"[" * 10**6,
        "rows.json": b"[" + b"{}," * (6 << 20) + b"{}]",
        "zeros.csv.gz": gzip.compress(b"conf_0,conf_1,pred_0,pred_1\n" + b"0,0,1,1\n" * (60 << 20), 1),
        "zeros.jsonl.gz": gzip.compress(b'{"conf_0": 0, "conf_1": 0, "pred_0": 1, "pred_1": 1}\n' * (4 << 20), 1),
        "answers.parquet": parquet_of({"pred_0": long}, 400, compression="zstd"),
        "lists.parquet": parquet_of({"logits": halves}, 100_000, compression="zstd"),
    }  # fmt: skip


class Call:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


#: Unpickling it would raise KeyboardInterrupt, which no handler here catches.
BOMB = Call(exec, "raise KeyboardInterrupt")


def pt_of(content, zipped=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def with_pickle(pickled, how=zipfile.ZIP_STORED):
    return repacked(pt_of({"logits": torch.zeros(2, 5, 3)}), {"data.pkl": pickled}, {}, how)


def pt_bombs():
    """Return ``.pt`` files by name: torch itself, or what is made of its values, would take gigabytes or forever."""
    x, t, shared = torch.zeros(2, 5, 3), torch.randn(4000, 250), [0.0, 0.0]
    for _ in range(27):
        shared = [shared, shared]
    keys = ("labels", "features", "note")
    return {f"shared_{key}.pt": pt_of({"logits": x, key: shared}) for key in keys} | {
        "shared_logits.pt": pt_of({"logits": shared}),
        "one_tensor.pt": pt_of({"logits": [t] * 1000, "labels": torch.zeros(4000)}),
        "one_tensor_nested.pt": pt_of({"logits": [[t] * 1000] * 2}),
        "one_text.pt": pt_of({"logits": x, "labels": [0] * 100_000 + ["x" * 10_000]}),
        "texts.pt": pt_of({"logits": x, "note": ["x" * 100_000] * 4000}),
        "tensor.pt": pt_of({"logits": Call(torch.Tensor, 2, 20_000_000, 10)}),
        "bytes.pt": pt_of({"logits": x, "labels": Call(bytearray, 1_500_000_000)}),
        "bytes_old.pt": pt_of({"logits": x, "labels": Call(bytearray, 1_500_000_000)}, False),
        "storage_old.pt": pt_of({"logits": x}, False).replace(b"cpuq\x06K\x1e", b"cpuq\x06J\x00\x00\x00\x10"),
        "lists.pt": with_pickle(b"\x80\x02(" + b"]" * (20 << 20) + b"t.", zipfile.ZIP_DEFLATED),
        "deep.pt": with_pickle(b"\x80\x02}X\x06\0\0\0logits" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s."),
        "itself.pt": with_pickle(b"\x80\x02}X\x06\0\0\0logits]q\x00h\x00as."),
        "key.pt": with_pickle(b"\x80\x02}K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s."),
        "called.pt": with_pickle(b"\x80\x02]q\x00" + b"](h\x00h\x00eq\x00" * 40 + b")R."),
    }  # fmt: skip


def lies(seed=0, count=40):
    """Return small files that state large sizes: in headers, in directories, at random places."""
    rng, found = np.random.default_rng(seed), {}
    x, parquet = np.zeros((2, 400, 3), np.float32), parquet_of({}, 2400)
    npz, npy = npz_of_zeros(x.shape), io.BytesIO()
    np.save(npy, x)
    good = {"npz": npz, "npy": npy.getvalue(), "parquet": parquet}
    good["pt"] = pt_of({"logits": torch.tensor(x)}, zipped=False)
    for i in range(count):
        kind = list(good)[i % 4]
        content = bytearray(good[kind])
        for _ in range(1 + i % 3):  # numbers of four and eight bytes, where sizes stand
            at = int(rng.integers(0, len(content) - 8))
            if kind in ("npz", "parquet"):
                at = len(content) - 8 - int(rng.integers(0, min(500, len(content) - 8)))
            content[at : at + 4] = int(rng.integers(1 << 28, 1 << 31)).to_bytes(4, "little")
        found[f"lie_{i:02}.{kind}"] = bytes(content)
    head = b"\x93NUMPY\x02\x00" + (3 << 30).to_bytes(4, "little")
    found["header.npy"] = head + b" " * 1000
    lie = {"logits": {"dtype": "F32", "shape": [2, 1 << 31, 3], "data_offsets": [0, 3 << 34]}}
    text = json.dumps(lie).encode()
    found["lie.safetensors"] = len(text).to_bytes(8, "little") + text + bytes(100)
    return found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured by /proc")
@pytest.mark.parametrize("files", ["lies", "bombs"])
def test_what_files_ask_for_is_refused_before_memory_is_taken(tmp_path, files):
    bombed = files == "bombs"
    contents = bombs() | pt_bombs() if bombed else lies()
    (tmp_path / "files").mkdir()
    for name, content in contents.items():
        (tmp_path / "files" / name).write_bytes(content)
        assert len(content) < 25 << 20
    command = [sys.executable, "-c", CHILD, str(1 + bombed << 30)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(contents), done.stderr
    for name, end, grown in map(json.loads, done.stdout.splitlines()):
        assert end.startswith("refused: ") or (end == "imported" and not bombed), (name, end[:300])
        assert not bombed or "memory" not in end or "MAX_BYTES" in end, (name, end[:300])
        assert grown < (250 if bombed else 100) << 20, (name, grown >> 20, end[:200])


def test_what_shrinks_well_and_is_honest_is_read(tmp_path):
    """One-hot probabilities of two exits: 72 MB, zipped to an eightieth."""
    labels, eye = rng.integers(0, 50, 180_000), np.eye(50, dtype=np.float32)
    probs = np.stack([eye[rng.permutation(labels)], eye[labels]])
    np.savez_compressed(tmp_path / "a.npz", probs=probs, labels=labels)
    assert probs.nbytes > FREE and (tmp_path / "a.npz").stat().st_size < probs.nbytes / 60
    data = import_sources(tmp_path / "a.npz", tmp_path / "a", costs="1,2", unit="ms").data
    assert data.kind == "probabilities" and data.exits == 2


def test_the_user_has_the_last_word(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(npz_of_zeros((2, 10**6, 10)))
    limits = dict.fromkeys(("-1", "1e9", "8GB", "0", "9" * 30), r"MAX_BYTES.*number of bytes")
    limits |= {"": r"unpacks to at most.*uncompressed.*POLICYOPT_MAX_BYTES=", "100000000": None}
    limits["70000000"] = r"at most 70000000 bytes, as POLICYOPT_MAX_BYTES says"
    for limit, says in limits.items():
        monkeypatch.setenv(VARIABLE, limit)
        if says is None:
            assert read_file(path).arrays["logits"].shape == (2, 10**6, 10)
        else:
            refuses(says, read_file, path)
    free = free_memory()
    assert free is None or 1 << 20 < free < 1 << 50


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_members_that_are_not_compressed_are_mapped(tmp_path, monkeypatch, order):
    """The way out that the error names: it needs no memory, whatever the size."""
    monkeypatch.setenv(VARIABLE, "100000")
    whole = np.asarray(rng.normal(size=(2, 30_000, 7)), order=order)
    np.savez(tmp_path / "a.npz", logits=whole, labels=np.zeros(30_000, np.int8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "b.npz").write_bytes(b"#!" * 50 + content)
    for name in ("a.npz", "b.npz"):
        np.testing.assert_array_equal(read_file(tmp_path / name).arrays["logits"], whole)
    content[len(content) // 2] ^= 1
    (tmp_path / "c.npz").write_bytes(content)
    refuses(r"cut or damaged", read_file, tmp_path / "c.npz")


@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(data=st.data(), rows=st.integers(1, 40), exits=st.integers(1, 3), long=st.booleans())
def test_tables_read_piece_by_piece_are_as_read_at_once(tmp_path_factory, data, rows, exits, long):
    """Whatever the size of the pieces, of all three formats, with columns of no use between."""
    place, rng = tmp_path_factory.mktemp("t"), np.random.default_rng(rows)
    conf, pred = rng.random((rows, exits)), rng.integers(0, 9, (rows, exits))
    label, context = rng.integers(0, 9, (2, rows))
    cells = {"conf": conf, "pred": pred, "cost_ms": 2 * conf}
    if long:
        frame = pd.DataFrame({
            "sample": np.repeat([f"s{i}" for i in range(rows)], exits), "note": "x",
            "exit": np.tile(np.arange(exits), rows), "label": np.repeat(label, exits), "context": np.repeat(context, exits),
        } | {name: values.ravel() for name, values in cells.items()})  # fmt: skip
        frame = frame.sample(frac=1, random_state=rows)
    else:
        named = {f"{name}_{k}": v[:, k] for name, v in cells.items() for k in range(exits)}
        frame = pd.DataFrame(named | {"note": "x", "label": label, "context": context})
    frame.to_csv(place / "a.csv", index=False)
    frame.to_json(place / "a.jsonl", orient="records", lines=True, double_precision=15)
    frame.to_parquet(place / "a.parquet", index=False, row_group_size=data.draw(st.integers(1, 50)))
    piece = data.draw(st.sampled_from([1, 300, 5000, 1 << 24]))
    for suffix in ("csv", "jsonl", "parquet"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table_files, "PIECE", piece)
            raw = by_exit(getattr(table_files, f"read_{suffix}")(place / f"a.{suffix}", {}))
        order = np.argsort(pd.factorize(frame["sample"])[1].str[1:].astype(int)) if long else slice(None)  # fmt: skip
        for name, values in {**cells, "label": label, "context": context}.items():
            np.testing.assert_allclose(raw.arrays[name][order], values, rtol=1e-12)
        assert raw.notes == [f"a.{suffix}: column 'note' is not known: not used"]


@pytest.mark.parametrize("kind", ["npz", "npy", "safetensors", "pt", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"PK\x03\x04", b'{"logits": [[1,2],', b"\xff\xfe{"]
)
def test_garbage(tmp_path, kind, content):
    refused(tmp_path / f"a.{kind}", ".", content)


@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_a_zip_with_a_name_that_is_no_text(tmp_path, name):
    """Its directory says that names are UTF-8; the flag stands 8 bytes into an entry."""
    content = bytearray(SAMPLES[name])
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 9] |= 8
    content[entry + 46] = 0xFF
    refused(tmp_path / name, "SRC", bytes(content))


def test_pickles_are_refused_by_name(tmp_path):
    objects = np.array([BOMB], dtype=object)
    np.savez(tmp_path / "a.npz", logits=objects, allow_pickle=True)
    refused(tmp_path / "a.npz", "a.npz: logits.*pickle")
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    refused(tmp_path / "a.npy", "pickle")
    refused(tmp_path / "a.pt", "tensors only.*--allow-pickle", pt_of({"logits": BOMB}))
    refused(tmp_path / "b.pth", "SRC", pickle.dumps(BOMB))


@pytest.mark.parametrize("more", [{"a": {1, 2}}, {"labels": Y}])
def test_trusted_pickle_needs_the_opt_in(tmp_path, more):
    content = pt_of({"logits": torch.tensor(X), "labels": torch.tensor(Y)} | more)
    refused(tmp_path / "a.pt", "--allow-pickle", content)
    assert import_sources(tmp_path / "a.pt", tmp_path / "out", allow_pickle=True).data.exits == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"labels": Call(bytearray, 9)}, r"'__builtin__.bytearray'.*--allow-pickle"),
        ({"labels": Call(torch.Tensor, 2, 3)}, r"'torch.Tensor'.*--allow-pickle"),
        ({"labels": [[torch.zeros(1), "a"], 1]}, "texts in lists of one length"),
        ({"labels": torch.UntypedStorage(3)}, r"labels' must be a tensor, a number, a text"),
        ({"logits": torch.zeros(1).expand(10**6, 10**4, 10**3)}, "holds all its elements"),
        ({"logits": torch.zeros(2, 12, 3).to_sparse()}, "dense"),
    ],
)
def test_what_a_pt_file_must_not_hold_is_named(tmp_path, content, says):
    refused(tmp_path / "a.pt", says, pt_of({"logits": torch.zeros(2, 500, 3)} | content))


def test_pt_files_that_readers_read_otherwise_are_refused(tmp_path):
    """torch takes a file for a zip by its first bytes, and finds members whatever their case."""
    bomb, good = pt_bombs()["bytes_old.pt"], pt_of({"logits": torch.zeros(2, 500, 3)})
    refused(tmp_path / "a.pt", "bytearray", bomb + good)
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        name, data = file.namelist()[0], file.read(file.namelist()[0])
    twin = {name.replace("data.pkl", "DATA.pkl"): b"\x80\x02]."}
    refused(tmp_path / "b.pt", "cannot read", repacked(good, {}, twin, zipfile.ZIP_STORED))
    # 3000 numbers become 1.5 thousand million
    refused(tmp_path / "c.pt", "SRC", with_pickle(data.replace(b"M\xb8\x0b", b"J\x00\x2f\x68\x59")))


@pytest.mark.parametrize("zipped", [True, False])
def test_pt_files_with_more_than_tensors_are_read(tmp_path, zipped):
    half, model = torch.rand(2, 50, 3).bfloat16(), torch.nn.BatchNorm1d(3)
    x, count = torch.nn.Parameter(torch.rand(2, 50, 3)), 100_000
    content = {
        "logits": list(x), "labels": [0, 1] * 25, "costs": [1.0, 2.0], "unit": "ms", "model": model.state_dict(),
        "shape": x.shape, "kept": {"half": half, 1: None}, "used": [True] * count, "views": [half[0], half[1, 0]],
        "whole": torch.arange(9, dtype=torch.uint8), "kind_of": torch.float32, "number": 10**30,
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    data = import_sources(tmp_path / "a.pt", tmp_path / "out").data
    assert data.exits == 2 and data.costs[0].unit == "ms"


FOUR, TWICE = "conf_0,conf_1,pred_0,pred_1", r"twice|each of another name"
#: A file's format and text -> what the message must match; None: it is imported.
TEXTS = [
    ("csv", f'{FOUR},"a, b"\n' + '0.5,0.6,1,2,"x, ""y,\n"\n' * 9, None),
    ("csv", "\ufeffconf_0, conf_1 ,pred_0,pred_1\n" + "0.5,0.6,1,2\n" * 9, None),
    ("csv", f" \n{FOUR}\n" + "0.5,0.6,1,2\n" * 9, None),
    ("csv", "conf_0,x, x\n" + "0.5,0.6,0.7\n" * 9, r"'x' twice"),
    ("csv", ",".join(f"x{k}" for k in range(16_385)), r"at most 16384. Got 16385"),
    ("csv", "sample,exit,conf,pred\n" + "".join(f"{s},{k},.5,1\n" for s in ("NA", "null") for k in (0, 1)), None),
    ("csv", "sample,exit,conf,pred\na,0,.5,1\n,0,.5,1", "sample' must be given.*nothing in row 1"),
    ("jsonl", '{"logits": [[1, 2], [2, 1]]}\n{"logits": [[1, 2], [2, 1]], "label": 0}', "line 1. Got label"),
    ("csv", f"{FOUR},label,label\n0.5,0.5,1,1,1,0", TWICE),
    # Longer rows, all or some: pandas would take the first column for names of the rows, or cut them.
    *(
        ("csv", f"{head}{FOUR}" + row * shorter + f"{row}{end}" * 9, r"of [45] cells, as the header")
        for head, row in (("", "\n0.5,0.6,1,2"), ("note,", "\nx,0.5,0.6,1,2"))
        for end in (",7", ",", ',"7"') for shorter in (0, 3)
    ),
    ("jsonl", '{"logits": [[1, 2], [2, 1]], "label": 0, "label": 1}', TWICE),
    ("jsonl", '{"conf_0": 0.5, "conf_1": 0.5, "pred_0": 1, "pred_1": 1, "label": 1, "label": 0}', TWICE),
    *(("jsonl", f"{line}\n{line}\n", ".") for line in (
        "[1]", "3", '{"logits": 3}', '{"logits": [1, 2], "label": 0}', '{"logits": [[1, "a"]]}',
        '{"logits": [[1, NaN], [2, 3]]}', '{"logits": [[1, 1e999], [2, 3]]}',
        '{"logits": [[1, 1e39], [2, 3]]}', '{"logits": [[1, 2], [3]]}', "[" * 10**5,
        '{"conf": [0.5, 2], "pred": [1, 1]}', '{"conf": [0.5, 1]}',
    )),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "text", "says"), TEXTS, ids=range(len(TEXTS)))
def test_texts_of_tables(tmp_path, suffix, text, says):
    (tmp_path / f"a.{suffix}").write_text(text)
    if says is None:
        assert import_sources(tmp_path / "a.csv", tmp_path / "out").data.exits == 2
    else:
        refused(tmp_path / f"a.{suffix}", says)


NPZ, NPY = io.BytesIO(), io.BytesIO()
np.savez_compressed(NPZ, logits=X, labels=Y)
np.save(NPY, X)
SAMPLES = {
    "a.npz": NPZ.getvalue(), "a.npy": NPY.getvalue(),
    "a.csv": b"conf_0,conf_1,pred_0,pred_1,label\n" + b"0.5,0.7,1,2,2\n0.25,0.5,0,1,1\n" * 3,
    "a.pt": pt_of({"logits": torch.tensor(X), "labels": torch.tensor(Y)}),
    "a.safetensors": save_safetensors({"logits": X, "labels": Y}),
    "a.jsonl": b'{"logits": [[1, 2], [3, 1]], "label": 1}\n' * 4,
    "b.jsonl": b'{"layer_logits": [[1, 2], [3, 1]], "gold": "B", "small": {"conf": 1}}\n' * 4,
    "a.json": b'[{"conf_1": 0.5, "conf_2": null, "pred_1": "A", "pred_2": 2, "y": "A"}, {"conf_1": 1, "y": null}]',
    "a.csv.gz": gzip.compress(b"model,id,conf,pred,gt\nm,0,.5,a b,\nn,0,,c,c\nm,1,1,,d\nn,1,,,d\n"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of numpy, on the odd numbers that damage makes
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(SAMPLES)), seed=st.integers(0, 1 << 32))
def test_any_damage_imports_or_is_refused(room, name, seed):
    place, draw = Path(tempfile.mkdtemp(dir=room)), random.Random(seed)
    whole, top = SAMPLES[name], draw.choice((200, 1 << 20))  # headers are the weak spot
    (place / name).write_bytes(damaged(draw, whole[:top]) + whole[top:])
    try:
        import_sources(place / name, place / "out")
    except InputError:
        assert not (place / "out").exists()
