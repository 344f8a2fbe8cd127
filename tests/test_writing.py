"""What is written is kept: one writer, one switch, and every file operation may be the last."""

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import policyopt as po
from policyopt.cache import CacheWriter, import_sources, open_cache
from policyopt.costs import Cost
from policyopt.export.bundle import write_bundle
from policyopt.export.manifest import read_manifest as read_export
from policyopt.export.samples import golden_of
from policyopt.export.tracing import trace_policy
from policyopt.runtime.artifact import load_policy, save_policy
from policyopt.runtime.bandits import make_bandit
from policyopt.runtime.online import Ladder, Online
from policyopt.runtime.policy import Policy
from policyopt.runtime.scores import MaxProb
from tests import faults

COSTS = [Cost("compute", "MMACs", [1, 2])]


@pytest.fixture
def room():
    """A folder in memory where there is one: this waits for the disk thousands of times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def arrays(seed, rows=40):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 2, 4)).astype(np.float32), rng.integers(0, 4, rows)


def policy(threshold):
    return Policy(MaxProb(), [threshold], [1.0, 3.0], "ms", "logits", 4)


def tree(folder):
    """Every file below a folder, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Scene:
    """A place with something old in it, work that writes something new there, and how to tell them."""

    def __init__(self, place):
        self.place, self.out = place, place / "out"

    def prepare(self):
        """Put the old in its place."""

    def work(self):
        """Write the new, from scratch, as a command does."""

    def again(self, new):
        """What is done next; `new`: the work had been done already."""
        self.work()

    def found(self):
        """What a reader sees: something that tells old from new."""


class _Cache(Scene):
    def source(self, seed):
        logits, labels = arrays(seed)
        path = self.place.parent / f"{seed}.npz"
        np.savez(path, logits=logits.transpose(1, 0, 2), labels=labels, costs=[1.0, 2.0])
        return path

    def import_(self, seed, **options):
        path = self.source(seed)
        return lambda: import_sources(
            path,
            self.out,
            unit="MMACs",
            cost_kind="cumulative",
            kind="logits",
            axes="KNC",
            **options,
        )

    def found(self):
        try:
            return open_cache(self.out).fingerprint
        except po.InputError:
            assert not (self.out / "manifest.json").exists()
            return None


class FirstImport(_Cache):
    def __init__(self, place):
        super().__init__(place)
        self.work, self.over = self.import_(1), self.import_(1, overwrite=True)

    def again(self, new):
        self.over() if new else self.work()


class Overwriting(_Cache):
    def __init__(self, place):
        super().__init__(place)
        self.prepare, self.work = self.import_(0), self.import_(1, overwrite=True)


class OverwritingAnOlderLayout(Overwriting):
    """Caches that others made: shards without a checksum in their names, a data card."""

    def __init__(self, place):
        super().__init__(place)
        write = self.prepare

        def prepare():
            write()
            file = self.out / "manifest.json"
            content = json.loads(file.read_text())
            for number, shard in enumerate(content["shards"]):
                name = f"{shard['split']}-{number:05d}.safetensors"
                (self.out / shard["file"]).rename(self.out / name)
                shard["file"] = name
            content.pop("sha256")
            file.write_text(json.dumps(content | {"version": 1}))

        self.prepare = prepare


class Streaming(_Cache):
    """Several shards and splits from an inference loop, over an old cache."""

    def write(self, seed, **options):
        logits, labels = arrays(seed)
        with CacheWriter(self.out, costs=COSTS, shard_bytes=600, **options) as cache:
            cache.append("fit", logits[:20], labels[:20])
            cache.append("test", logits[20:], labels[20:])

    def prepare(self):
        self.write(0)

    def work(self):
        self.write(1, overwrite=True)


class SavingAPolicy(Scene):
    def prepare(self):
        self.out.mkdir()
        save_policy(policy(0.5), self.out / "policy.json")

    def work(self):
        save_policy(policy(0.7), self.out / "policy.json")

    def found(self):
        return load_policy(self.out / "policy.json").thresholds.tolist()


class SavingOnline(Scene):
    def prepare(self):
        self.out.mkdir()
        self.file = self.out / "online.json"
        Online(Ladder(policy(0.5), [[0.2], [0.6]]), make_bandit("thompson")).save(self.file)

    def work(self):
        online = Online.load(self.file)
        online.start()
        online.save(self.file)

    def again(self, new):
        Online.load(self.file).save(self.file) if new else self.work()

    def found(self):
        return Online.load(self.file).requests


class Exporting(Scene):
    def __init__(self, place):
        super().__init__(place)
        self.made = [
            (p := policy(t), golden_of(p, trace_policy(p), rows=3), trace_policy(p))
            for t in (0.5, 0.7)
        ]

    def write(self, which):
        made, golden, graphs = self.made[which]
        write_bundle(made, self.out, ["python"], golden, graphs)

    def prepare(self):
        self.write(0)

    def work(self):
        self.write(1)

    def found(self):
        return read_export(self.out)[1].thresholds.tolist()


SCENES = [
    FirstImport, Overwriting, OverwritingAnOlderLayout, Streaming, SavingAPolicy, SavingOnline, Exporting,
]  # fmt: skip


@pytest.mark.parametrize("kind", SCENES, ids=[kind.__name__ for kind in SCENES])
def test_every_file_operation_may_be_the_last(kind, room, capsys):
    """Old or new, whole, after each; then the same command does its work and leaves nothing else."""
    scene = kind(room / "place")
    scene.place.mkdir()
    scene.prepare()
    start = room / "start"
    shutil.copytree(scene.place, start)
    old = scene.found()
    scene.work()
    new, finished = scene.found(), set(tree(scene.place))
    assert new != old
    for mode in faults.MODES:
        outcomes, at = Counter(), 0
        while True:
            shutil.rmtree(scene.place)
            shutil.copytree(start, scene.place)
            code, reached = faults.run(scene.work, at, mode)
            if not reached:
                break
            where = f"{mode}, operation {at}"
            assert code != faults.OTHER, where
            now = scene.found()
            assert now in (old, new), where
            assert code != faults.DONE or now == new, where
            told = {faults.DONE: "done", faults.REFUSED: "error", faults.KILLED: "killed"}[code]
            outcomes[f"{told}, {'new' if now == new else 'old'} whole"] += 1
            if code == faults.REFUSED and mode == "refused once" and now == old:
                left = set(tree(scene.place)) - set(tree(start))
                assert not [name for name in left if name.endswith(".tmp")], where
            scene.again(now == new)
            assert scene.found() == new, where
            assert set(tree(scene.place)) == finished, where
            at += 1
        assert at > (0 if mode == "killed within" else 5)
        with capsys.disabled():
            if os.environ.get("SHOW_FAULTS"):
                print(
                    f"\n{kind.__name__}, {mode}: {at} operations: {dict(sorted(outcomes.items()))}"
                )
