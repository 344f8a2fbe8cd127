"""How time and memory grow with the rows of a cache; a pass by two workers of a cluster; bytes read from a store.

Each measurement is a line of ``results/scale.jsonl``, and is resumed. Stages run as commands in processes of their own,
whose memory is looked at all the time. 10**7 rows take 10 GB of disk (20 of summaries' 10**8) while they are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, machine_line, seconds, table

import policyopt as po
from policyopt._table import Tables

EXITS, CLASSES, BATCH = 5, 100, 20_000
RESULTS = Path(__file__).parent / "results" / "scale.jsonl"
ROWS = "1e5,1e6"
#: Of anonymous memory, in every stage after the import.
MOST = 1e9
_PORT = 5519
_PLACES = {"store": "in the store", "disk": "on disk"}
_PERIOD = 0.01  # seconds between two looks at a process
STAGES = {
    "info, first": ["info", "CACHE"],
    "info": ["info", "CACHE"],
    "fit": ["fit", "CACHE", "--method", "max_prob", "--budget", "50%", "--out", "OUT/policy.json"],
    "curve": ["curve", "CACHE", "--methods", "max_prob,entropy", "--budgets", "5", "--out", "OUT/curve"],
}  # fmt: skip


def main() -> None:
    """Measure what is not there yet, and show all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=ROWS, help="of logits, e.g. 1e5,3e5,1e6,3e6,1e7")
    parser.add_argument("--summaries", default="", help="of summaries, e.g. 1e7,1e8")
    parser.add_argument("--cluster", default="", help="of logits, passed over by workers: 1e6")
    parser.add_argument("--store", default="", help="of logits, in an S3 server: 2e6")
    parser.add_argument("--place", type=Path, help="folder for caches; default the system's")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--pass", nargs=2, dest="passes", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        print(json.dumps(make(arguments.make[0], int(arguments.make[1]), Path(arguments.make[2]))))
        return
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    if arguments.passes:
        print(json.dumps(passed(Path(arguments.passes[0]), int(arguments.passes[1]))))
        return
    works: dict[str, Callable[..., list[dict[str, Any]]]] = {
        "logits": stages, "summary": stages, "cluster": cluster, "store": store,
    }  # fmt: skip
    given = (arguments.rows, arguments.summaries, arguments.cluster, arguments.store)
    for (what, work), rows in zip(works.items(), given, strict=True):
        for n in [int(float(text)) for text in rows.split(",") if text]:
            if not any(one["what"] == what and one["rows"] == n for one in known()):
                before = machine()
                with tempfile.TemporaryDirectory(dir=arguments.place) as place:
                    found = work(what, n, Path(place))
                line = {"machine": machine_line(before, machine())}
                with RESULTS.open("a") as file:
                    for one in found:
                        file.write(json.dumps({"what": what, "rows": n, **one, **line}) + "\n")
    text = shown(known())
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def known() -> list[dict[str, Any]]:
    """Return what was measured."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def make(what: str, rows: int, out: Path) -> dict[str, Any]:
    """Write a cache of so many rows, all different; return the seconds that making them took."""
    rng, took = np.random.default_rng(0), 0.0
    labels = rng.integers(0, CLASSES, BATCH)
    base = rng.standard_normal((BATCH, EXITS, CLASSES), dtype=np.float32)
    base[np.arange(BATCH)[:, None], np.arange(EXITS), labels[:, None]] += np.linspace(1, 4, EXITS)
    outputs = base.astype(np.float16)
    kind: dict[str, Any] = {"dtype": "float16"}
    if what == "summary":
        kind = {"kind": "summary", "classes": CLASSES}
    cost = po.Cost("compute", "MMACs", tuple(float(k + 1) for k in range(EXITS)))
    with po.CacheWriter(out, costs=cost, **kind) as cache:
        for low in range(0, rows, BATCH):
            start = time.perf_counter()
            some = slice(0, min(BATCH, rows - low))
            if what == "summary":
                sure = rng.random((BATCH, EXITS), dtype=np.float32)[some]
                right = rng.random(sure.shape, dtype=np.float32) < sure
                said = np.where(right, labels[some, None], (labels[some, None] + 1) % CLASSES)
                given: dict[str, Any] = {
                    "prediction": said,
                    "confidence": sure,
                    "entropy": 1 - sure,
                }
            else:
                own = rng.standard_normal((BATCH, EXITS, 1), dtype=np.float32)  # of each row
                given = {"outputs": outputs[some] * (1 + 0.1 * own[some]).astype(np.float16)}
            took += time.perf_counter() - start
            cache.append("pool", labels=labels[some], **given)
    return {"making": took}


def stages(what: str, rows: int, place: Path) -> list[dict[str, Any]]:
    """Measure the import of made rows, and each command on them."""
    cache, here = place / "cache", [sys.executable, __file__]
    found = [{"stage": "import", **watched([*here, "--make", what, str(rows), str(cache)])}]
    found[0]["seconds"] -= json.loads(found[0].pop("told"))["making"]
    for stage, words in STAGES.items():
        words = [w.replace("CACHE", str(cache)).replace("OUT", str(place)) for w in words]
        one = watched([sys.executable, "-m", "policyopt", *words])
        one.pop("told")
        found.append({"stage": stage, **one})
        print(what, rows, found[-1], file=sys.stderr)
    size = sum(file.stat().st_size for file in cache.glob("*.safetensors"))
    kept = sum(file.stat().st_size for file in cache.glob("statistics/*"))
    return [{**one, "bytes": size, "kept": kept} for one in found]


def watched(command: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its seconds, and the most memory that only it filled (RssAnon + RssShmem)."""
    most, start = 0, time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told)
        while process.poll() is None:
            most = max(most, _own(process.pid))
            time.sleep(_PERIOD)
        took = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
        told.seek(0)
        return {"seconds": took, "memory": most, "told": told.read().decode()}


def _own(process: int) -> int:
    """Return the bytes that only a process fills."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(x.split()[1]) for x in lines if x.startswith(("RssAnon", "RssShmem"))) * 1024


def cluster(what: str, rows: int, place: Path) -> list[dict[str, Any]]:
    """Time the first pass by one process on one core, and by a cluster of one and two workers."""
    cache, here = place / "cache", [sys.executable, __file__]
    make("logits", rows, cache)
    found = []
    for round_ in range(5):
        for workers in (0, 1, 2):
            shutil.rmtree(cache / "statistics", ignore_errors=True)
            done = subprocess.run(
                [*here, "--pass", str(cache), str(workers)], check=True, capture_output=True, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            found.append({"workers": workers, "round": round_, **json.loads(done.stdout)})
    if len({one["sum"] for one in found}) > 1:
        raise SystemExit(f"not the same numbers: {found}")
    return found


def passed(cache: Path, workers: int) -> dict[str, Any]:
    """Pass over a cache and keep what is found: by workers of a cluster, or 0: this process on one core."""
    data = po.open_cache(cache)

    def go() -> float:
        start = time.perf_counter()
        Tables(data).get("pool")
        return time.perf_counter() - start

    if not workers:
        os.sched_setaffinity(0, {0})
        took = go()
    else:
        from distributed import LocalCluster

        with LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0",
            host="127.0.0.1", silence_logs=50,
        ) as there, po.parallel(scheduler=there.scheduler_address):  # fmt: skip
            with there.get_client() as client:
                client.run(import_module, "policyopt._table")  # a cluster that is up has done so
            took = go()
    (kept,) = (cache / "statistics").glob("*.safetensors")
    return {"seconds": took, "sum": kept.name}  # the name tells its checksum


def store(what: str, rows: int, place: Path) -> list[dict[str, Any]]:
    """Count what is read of a cache in a store, beside its size; time it beside the same on disk."""
    cache, here = place / "cache", [sys.executable, __file__]
    make("logits", rows, cache)
    size = sum(file.stat().st_size for file in cache.glob("*.safetensors"))
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(_PORT)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet)
    keys = {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    keys |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{_PORT}", "XDG_CACHE_HOME": str(place / "home")}
    os.environ.update(keys)
    try:
        import s3fs

        time.sleep(5)  # until it listens
        files = s3fs.S3FileSystem()
        files.mkdir("bucket")
        files.put([str(file) for file in cache.iterdir() if file.is_file()], "bucket/cache/")
        found = []
        for where in ("s3://bucket/cache", str(cache)):
            for start in ("first", "second"):
                one = watched([*here, "--read", where])
                one |= json.loads(one.pop("told"))
                found.append(
                    {
                        "where": "store" if "://" in where else "disk",
                        "start": start,
                        "size": size,
                        **one,
                    }
                )
                print(found[-1], file=sys.stderr)
        return found
    finally:
        server.kill()


def read(where: str) -> dict[str, Any]:
    """Open a cache and make the table of its pool; return how many bytes came from a store."""
    from policyopt._cache.places import Store

    came, ranges = [0], Store._ranges

    def counted(self: Store, name: str, starts: list[int], ends: list[int]) -> list[bytes]:
        pieces = ranges(self, name, starts, ends)
        came[0] += sum(map(len, pieces))
        return pieces

    Store._ranges = counted
    start = time.perf_counter()
    table_of = Tables(po.open_cache(where)).get("fit")
    accuracy = table_of.mean_quality.tolist()
    return {"inside": time.perf_counter() - start, "came": came[0], "accuracy": accuracy}


def shown(lines: Sequence[dict[str, Any]]) -> str:
    """Return the tables."""
    out = []
    for what in ("logits", "summary"):
        mine = [one for one in lines if one["what"] == what]
        sizes = sorted({one["rows"] for one in mine})
        if not sizes:
            continue
        rows = []
        for stage in ("import", *STAGES):
            of = {one["rows"]: one for one in mine if one["stage"] == stage}
            at = [of[n] for n in sizes]
            slope = "-"
            if len(sizes) > 1:
                each, fixed = np.polyfit(np.array(sizes) / 1e6, [one["seconds"] for one in at], 1)
                slope = f"{fixed:.1f} s + {each:.2f} s"
            rows.append(
                [
                    stage,
                    *(f"{seconds(one['seconds'])}, {one['memory'] / 1e6:,.0f} MB" for one in at),
                    slope,
                ]
            )
        kind = f"float16 logits, C = {CLASSES}" if what == "logits" else "summaries"
        gigabytes = [next(one["bytes"] for one in mine if one["rows"] == n) / 1e9 for n in sizes]
        head = [f"N = {n:,} ({size:.3g} GB)" for n, size in zip(sizes, gigabytes, strict=True)]
        title = f"Time, and peak memory of one's own, of {kind}, K = {EXITS}"
        out.append(table(title, ["stage", *head, "start + per million rows"], rows))
    passes = [one for one in lines if one["what"] == "cluster"]
    for n in sorted({one["rows"] for one in passes}):
        best = {
            w: min(one["seconds"] for one in passes if one["workers"] == w and one["rows"] == n)
            for w in (0, 1, 2)
        }
        names = {0: "one process on one core", 1: "a cluster of one worker", 2: "of two workers"}
        rows = [[names[w], seconds(t), f"{best[0] / t:.2f}"] for w, t in best.items()]
        out.append(
            table(
                f"The pass over {n:,} rows, best of 5; equal columns",
                ["by", "time", "times as fast"],
                rows,
            )
        )
    for n in sorted({one["rows"] for one in lines if one["what"] == "store"}):
        rows = [
            [
                f"{_PLACES[one['where']]}, {one['start']} start", seconds(one["inside"]),
                f"{one['memory'] / 1e6:,.0f} MB", f"{one['came'] / 1e6:,.1f} MB",
                f"{one['came'] / one['size']:.3f}",
            ]
            for one in lines if one["what"] == "store" and one["rows"] == n
        ]  # fmt: skip
        title = f"Opening and passing over {n:,} rows, on disk and in an S3 server (moto) on the loopback"
        head = ["where", "time", "memory of one's own", "read from the store", "of the shards"]
        out.append(table(title, head, rows))
    machines = dict.fromkeys(
        f"{one['what']}, {one['rows']:,} rows: {one['machine']}" for one in lines
    )
    return "\n".join([*out, *machines]) + "\n"


if __name__ == "__main__":
    main()
