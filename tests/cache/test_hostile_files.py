"""Files from strangers: nothing runs, nothing huge is allocated, every end is an InputError."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from policyopt._cache.importers import import_sources
from policyopt.runtime._errors import InputError

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(2, 12, 3)).astype(np.float32), rng.integers(0, 3, 12)


class Bomb:
    """Unpickling it would raise KeyboardInterrupt, which no handler here catches."""

    def __reduce__(self):
        return (exec, ("raise KeyboardInterrupt",))


def npy_bytes(shape, descr="<f4", data=b""):
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def refused(path, match, **options):
    with pytest.raises(InputError, match=match):
        import_sources(path, path.parent / "out", **options)
    assert not (path.parent / "out").exists()


def test_pickles_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.array([Bomb()], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npz", "a.npz: logits.*pickle")
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "pickle")
    torch.save({"logits": Bomb()}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "tensors only.*--allow-pickle")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "b.pth", "SRC")


def test_trusted_pickle_needs_the_opt_in(tmp_path):
    torch.save(
        {"logits": torch.tensor(X), "labels": torch.tensor(Y), "a": {1, 2}}, tmp_path / "a.pt"
    )
    torch.save({"logits": torch.tensor(X), "labels": Y}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        try:
            import_sources(tmp_path / name, tmp_path / name.replace(".pt", ""))
        except InputError as error:
            assert "--allow-pickle" in str(error)
        report = import_sources(tmp_path / name, tmp_path / f"{name}.out", allow_pickle=True)
        assert report.data.exits == 2


@pytest.mark.parametrize(
    "shape", [(10**6, 10**6, 10**6), (2, 12, 4), (-2, 12, -3), (2, 2**63, 2**63)]
)
def test_lying_npy_headers(tmp_path, shape):
    lie = npy_bytes(shape, data=X.tobytes())
    (tmp_path / "a.npy").write_bytes(lie)
    refused(tmp_path / "a.npy", "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("logits.npy", lie)
    refused(tmp_path / "a.npz", "a.npz")


def test_zip_bombs(tmp_path):
    for name in ("a.npz", "a.pt"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("logits.npy", npy_bytes((2, 3 * 10**6, 3)) + bytes(72 * 10**6))
        refused(tmp_path / name, "unpacks to at most")


@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_a_zip_with_a_name_that_is_no_text(tmp_path, name):
    """Its directory says that names are UTF-8; the flag stands 8 bytes into an entry."""
    content = bytearray(SAMPLES[name])
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 9] |= 8
    content[entry + 46] = 0xFF
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "SRC")


def test_expanded_tensor(tmp_path):
    torch.save({"logits": torch.zeros(1).expand(10**6, 10**4, 10**3)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "holds all its elements")
    torch.save({"logits": torch.zeros(2, 12, 3).to_sparse()}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "dense")


def test_lying_safetensors_header(tmp_path):
    header = {"logits": {"dtype": "F32", "shape": [2, 10**12, 3], "data_offsets": [0, 288]}}
    text = json.dumps(header).encode()
    for length in (len(text), 2**62):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + text + X.tobytes())
        refused(tmp_path / "a.safetensors", "a.safetensors")


@pytest.mark.parametrize(
    "name", ["a.npz", "a.npy", "a.safetensors", "a.pt", "a.csv", "a.jsonl", "a.parquet"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"PK\x03\x04", b'{"logits": [[1,2],', b"\xff\xfe{"]
)
def test_garbage(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, ".")


@pytest.mark.parametrize(
    "line",
    [
        "[1]", "3", '{"logits": 3}', '{"logits": [1, 2], "label": 0}', '{"logits": [[1, "a"]]}',
        '{"logits": [[1, NaN], [2, 3]]}', '{"logits": [[1, 1e999], [2, 3]]}',
        '{"logits": [[1, 1e39], [2, 3]]}', '{"logits": [[1, 2], [3]]}', "[" * 10**5,
        '{"conf": [0.5, 2], "pred": [1, 1]}', '{"conf": [0.5, 1]}',
    ],
)  # fmt: skip
def test_jsonl_lines(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}\n")
    refused(tmp_path / "a.jsonl", ".")


def samples():
    npz, npy, pt = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, logits=X, labels=Y)
    np.save(npy, X)
    torch.save({"logits": torch.tensor(X), "labels": torch.tensor(Y)}, pt)
    csv = "conf_0,conf_1,pred_0,pred_1,label\n" + "0.5,0.7,1,2,2\n0.25,0.5,0,1,1\n" * 3
    return {
        "a.npz": npz.getvalue(),
        "a.npy": npy.getvalue(),
        "a.pt": pt.getvalue(),
        "a.safetensors": save_safetensors({"logits": X, "labels": Y}),
        "a.csv": csv.encode(),
        "a.jsonl": b'{"logits": [[1, 2], [3, 1]], "label": 1}\n' * 4,
    }


SAMPLES = samples()


@pytest.mark.filterwarnings("ignore")  # of numpy, on the odd numbers that flips make
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_flip_or_cut_imports_or_is_refused(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("flip")
    name = data.draw(st.sampled_from(sorted(SAMPLES)))
    content = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        # Headers are the weak spot: half of the flips fall there.
        top = len(content) - 1 if data.draw(st.booleans()) else min(200, len(content) - 1)
        content[data.draw(st.integers(0, top))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    (place / name).write_bytes(content)
    try:
        import_sources(place / name, place / "out")
    except InputError:
        assert not (place / "out").exists()
