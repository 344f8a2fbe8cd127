"""``policyopt export`` and ``verify``: a policy for other runtimes, and each of them on its golden vectors."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from policyopt._cli import options, output
from policyopt._cli.options import argument, option
from policyopt._cli.output import shown
from policyopt._export.bundle import TARGETS, installed_targets, read_export
from policyopt._export.bundle import export as write_export
from policyopt._export.c_native import WITHOUT
from policyopt._export.golden import BYTES, Golden, by_name, given_output, row_bytes, rows_of
from policyopt._export.rounding import ULPS
from policyopt._export.verify import Runner, Taken
from policyopt._export.verify import verify as check_export
from policyopt.runtime._certificate import FIELD
from policyopt.runtime._errors import CheckError, InputError, input_error
from policyopt.runtime._experts import ExpertPolicy, load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import shaped

_digits = "{:.2g}".format


def export(
    policy: Path = options.POLICY,
    out: Path = option(..., "Folder to write."),
    to: list[str] | None = option(
        None,
        "python, onnx or c; comma-separated, or repeated. Default: all that can be written here.",
    ),
    cache: Path | None = option(None, "Take golden rows from this cache (default: made-up ones)."),
    split: str | None = option(None, "Rows of the cache (default: test)."),
    rows: int = option(512, "Golden rows, at most.", min=1),
    name: str = option("policyopt_policy", "Of the C header, and prefix of the names in it."),
    level: str | None = options.LEVEL,
    seed: int = options.SEED,
) -> None:
    """Write a policy for other runtimes, with golden vectors that `policyopt verify` runs."""
    loaded = load_any(policy)
    if level is not None or not isinstance(loaded, PolicyFamily) or loaded.routes:
        loaded = options.at_level(loaded, level)
    if isinstance(loaded, ExpertPolicy):
        got = "expert branches: one policy per context"
        step = "Export the policy of each context: ExpertPolicy.policies."
        raise input_error("POLICY", "a policy", got, step)
    if split is not None and cache is None:
        raise input_error("--split", "given with --cache", split, "Made-up rows have no splits.")
    wanted = [t.strip() for part in to or () for t in part.split(",")] or None
    if not to and "onnx" not in installed_targets():
        output.note("no ONNX graphs: pip install 'policyopt[onnx]' for them")
    data = None if cache is None else options.read_cache(cache)
    given: dict[str, Any] = {"data": data, "split": split or "test", "rows": rows}
    with output.progress("exporting"), output.writing(out):
        found = write_export(loaded, out, wanted, **given, name=name, seed=seed)
    count, size = len(found.golden) - found.boundary, row_bytes(loaded, ())
    if BYTES // size < min(rows, found.left_out.of):
        why = f"each takes {size:,} bytes, all {BYTES >> 20} MiB at most"
        output.note(f"{count:,} golden rows of {rows:,}: {why}")
    elif count < rows and (data is not None or rows != 512):
        output.note(f"{count:,} golden rows of {rows:,}: there are no more")
    written = f"wrote {out}: {', '.join(found.targets)}; {count} golden rows"
    output.say(written, f"next: {output.command('verify', out)}")


def verify(
    folder: Path = argument("What `policyopt export` wrote, or a policy file.", "DIR"),
    cache: Path | None = argument(
        "Of a policy file: the cache that its certificate is of; of a routing policy without one: whose rows to try.",
        "CACHE",
        None,
    ),
    level: str | None = option(None, "Of the family in a policy file, see `run`.", "--level"),
    require: str = option("", "Runtimes that must be here: python, onnx, c."),
    style: output.Format = options.STYLE,
) -> None:
    """Test an export on its golden vectors, or a certificate; exit code 4 at the first difference.

    On another processor than the one that exported, scores may differ by the ulps stated, and exits of
    rows within those of a threshold: these are counted and told, with exit code 0.

    The Python file and the C header are run for that: verify folders whose writer you trust.
    """
    if cache is not None or folder.is_file():
        policy: Any = load_any(folder) if cache else None
        bare = isinstance(policy, PolicyFamily) and policy.routes
        bare = bare and not any(FIELD in one.provenance for one in policy.policies)
        if cache and (bare or level is not None):
            policy = options.at_level(policy, level)
        if cache and isinstance(policy, RoutingPolicy) and FIELD not in policy.provenance:
            with TemporaryDirectory() as temporary:
                out = Path(temporary) / "out"
                write_export(policy, out, "python", data=options.read_cache(cache))
                verify(out, None, None, require, style)
        else:
            _recheck(folder, policy, cache, style)
        return
    if level is not None:
        raise input_error("--level", "given with a file of a family", level, "Leave it out.")
    needed = [name.strip() for name in require.split(",") if name.strip()]
    for name in needed:
        if name not in TARGETS:
            raise input_error("--require", f"of {', '.join(TARGETS)}", name, "E.g. --require c.")
    export = read_export(folder)
    found = check_export(export, runners())
    rows: list[dict[str, Any]] = [
        {
            "runtime": v.runtime, "rows": v.rows, "error_ulps": v.error,
            "threshold_within": v.within, "turned_at_threshold": v.turned,
            "same_machine": export.same_machine, "absent": v.absent or None,
        }
        for v in found
    ]  # fmt: skip
    columns = {
        "runtime": "runtime",
        "golden rows": lambda r: None if r["absent"] else r["rows"],
        "exits, answers": lambda r: (
            f"not run: {r['absent']}" if r["absent"] else _equal(r["turned_at_threshold"])
        ),
        "scores off by at most [float32 ulps]": shown("error_ulps", _digits),
        "thresholds checked to within": shown("threshold_within", _digits),
    }
    output.print_records(rows, style, columns)
    if style is output.Format.table:
        output.say(*filter(None, [_rows(export)]), _machine(export, found[0]))
    ran = {v.runtime for v in found if not v.absent}
    if missing := [name for name in needed if name not in ran]:
        raise CheckError(
            f"--require: {', '.join(missing)} could not be run, or is not in the export."
        )


def _recheck(path: Path, policy: Any, cache: Path | None, style: output.Format) -> None:
    """Recompute the certificate of a policy, of a file, on its cache."""
    from policyopt._certificates.certify import recheck
    from policyopt.runtime._certificate import in_words

    if cache is None:
        step = f"E.g. {output.command('verify', path, 'CACHE')}"
        allowed = "given with a policy file: its certificate is of rows"
        raise input_error("CACHE", allowed, "none", step)
    found = recheck(policy, options.read_cache(cache))
    if not output.print_data(style, found, [found]):
        output.say(f"holds: {in_words(found)}")


def _equal(turned: int) -> str:
    return f"equal but {turned:,} at a threshold" if turned else "equal"


def _machine(export: Any, numpy: Any) -> str:
    """Return whether the scores recorded were this machine's, and what was asked for that."""
    if export.same_machine:
        return (
            "Exported on a machine with this one's arithmetic: numpy's scores and exits are equal."
        )
    there = export.machine
    return (
        f"Exported on another processor or C library (numpy {there['numpy']}, {there['architecture']}, "
        f"{' '.join(there['features'])}; {there['libc'] or there['system']}): numpy's scores differ by "
        f"{_digits(numpy.error)} float32 ulps of the {ULPS['c']} stated, "
        f"{numpy.turned:,} rows at a threshold leave otherwise."
    )


def _rows(export: Any) -> str:
    """Return what the golden rows are, and what was left out of them."""
    left = export.left_out
    text = ""
    if export.boundary:
        text = f"{export.boundary:,} of the rows lie at thresholds, as near as floats allow. "
    if left.rows:
        text += (
            f"Of {left.of:,} rows tried for the others {left.rows:,} were not taken: they lie within "
            f"{_digits(max(left.ulps, default=ULPS['c']))} float32 roundings (ulps) of another decision."
        )
    return text


# --- `policyopt.serving` as runtimes: a model that says the golden outputs again ---------------


def runners() -> dict[str, Runner]:
    """Return the ways of serving, by name."""
    if find_spec("torch") is None:
        return dict.fromkeys(_SERVERS, lambda policy, golden: "torch is not installed")
    return dict(_SERVERS)


def _replaying(policy: Policy, golden: Golden) -> Any:
    """Return a staged model whose batch is numbers of golden rows, and whose heads say their outputs."""
    import torch

    from policyopt.serving import StagedModel

    def output(at: int, rows: Any) -> Any:
        (given,) = rows_of(golden.inputs[at : at + 1], rows.numpy())
        found = given_output(policy, given)
        return found if policy.kind == "summary" else torch.from_numpy(found)

    def vectors(at: int, rows: Any) -> Any:
        return torch.from_numpy(golden.inputs[at]["features"][rows.numpy()])

    def skipped(rows: Any) -> Any:
        raise AssertionError("an exit that the policy skips was asked")

    def each(of: Any) -> list[Any]:
        calls: list[Any] = [skipped] * policy.model_exits
        for at, k in enumerate(policy.active_exits):
            calls[k] = partial(of, at)
        return calls

    stages = [lambda rows: rows] * policy.model_exits
    return StagedModel(stages, each(output), each(vectors) if policy.needs_features else None)


@lru_cache(maxsize=1)  # both sizes of batches are of one server
def _server(policy: Policy, golden: Golden) -> Any:
    from policyopt.serving import serve

    return serve(_replaying(policy, golden), policy)


def _served(policy: Policy, golden: Golden, size: int = 1, native: bool = False) -> Taken | str:
    """Serve the rows in batches of `size`; 0: all at once, survivors regrouped."""
    import torch

    from policyopt.serving import serve

    server = _server(policy, golden)
    if native and server.reason:
        return f"machine code serves no such policy: {server.reason}"
    try:
        server = serve(_replaying(policy, golden), policy, native=True) if native else server
    except InputError as error:  # no compiler, or nothing that C can compute
        return str(error).removesuffix(WITHOUT).rstrip()
    count = len(golden)
    exits, answers = np.empty(count, np.int64), np.empty(count, np.int32)
    for low in range(0, count, size or count):
        at = slice(low, low + (size or count))
        numbers = by_name(golden.sample[at])
        named = {"samples": numbers["sample"], "level": numbers.get("level")}
        found = server(torch.arange(count)[at], **named)
        answers = shaped(answers, found.prediction)
        exits[at], answers[at] = found.exit, found.prediction
    return Taken(exits, answers)


_SERVERS: dict[str, Runner] = {
    "torch server, one batch": partial(_served, size=0),
    "torch server, batches of 1": _served,
    "torch server, batches of 1 in machine code": partial(_served, native=True),
}
