"""Folders of exports, damaged, or forged and signed: a named error, or what was written and numpy confirms."""

import json
from contextlib import suppress

import numpy as np
from mutations import (
    Guard,
    damaged,
    difference,
    forged_archive,
    in_batches,
    signed,
    text_of,
    twisted,
)
from rules import assert_valid, policies

from policyopt._export.bundle import checksum, read_export, write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import checks
from policyopt.runtime._errors import CheckError, InputError

KINDS = ("score patience", "records", "mixture of two scores", "kept exits")


class Source:
    def __init__(self, name, room):
        self.name, self.folder = name, room / name.replace(" ", "_")
        policy = policies()[name]
        golden = golden_of(policy, trace_policy(policy), rows=5)
        write_bundle(policy, self.folder, ["python"], golden)
        self.files = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        self.manifest = json.loads(self.files["manifest.json"])
        self.changed = set()

    def write(self, name, data):
        (self.folder / name).write_bytes(data)
        self.changed.add(name)

    def restore(self):
        for name in self.changed:
            (self.folder / name).write_bytes(self.files[name])
        self.changed = set()

    def sign(self):
        files = {name: checksum(self.folder / name) for name in self.manifest["files"]}
        self.write("manifest.json", text_of(signed({**self.manifest, "files": files})))


def one_case(draw, number, source, guard):
    """Read one folder, with one file damaged, or forged and signed."""
    name = draw.choice(sorted(source.files))
    data, forged = source.files[name], draw.random() < 0.6
    if not forged:
        source.write(name, damaged(draw, data))
    elif name == "manifest.json":
        source.write(name, text_of(signed(twisted(draw, source.manifest))))
    else:
        how = draw.choice((damaged, forged_archive)) if name.endswith(".npz") else damaged
        source.write(name, how(draw, data))
        source.sign()
    size = sum(map(len, source.files.values()))
    what = (*number, source.name, name, forged)
    export = guard.load(lambda: read_export(source.folder), size, what)
    same = {n: (source.folder / n).read_bytes() for n in source.changed}
    source.restore()
    if export is None:
        return
    if not forged:
        assert name == "manifest.json" or same[name] == data, what
        if name == "manifest.json":  # spaces, another spelling of a number
            assert json.loads(same[name]) == source.manifest, what
        return
    manifest = json.loads(same["manifest.json"])
    free = ("files", "left_out", "machine", "sha256")
    told = {n: v for n, v in manifest.items() if n not in free}
    where = difference(told, {n: source.manifest[n] for n in told})
    assert where is None, (where, what)
    assert_valid(manifest)
    with np.errstate(all="ignore"), suppress(InputError, CheckError):
        assert next(checks(export)).runtime == "numpy batch"


def test_folders_of_exports(room):
    sources = [Source(name, room) for name in KINDS]
    for source in sources:  # what is imported at first use is no folder's doing
        assert next(checks(read_export(source.folder))).rows >= 5
    guard = Guard(free=2 << 20)
    case = lambda draw, number: one_case(draw, number, draw.choice(sources), guard)  # noqa: E731
    in_batches(case, guard, 12)
