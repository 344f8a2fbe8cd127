"""Golden vectors: inputs of every exit, and what a policy says of them; in memory and as an .npz."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._files import write_file
from policyopt.runtime._outputs_file import check_zip, read_header, read_member
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import policy_of
from policyopt.runtime._strict_json import read_plain
from policyopt.runtime._typing import Array, Bools, Floats, Ints

Inputs = dict[str, Array]
#: Bytes of the inputs that are held side by side: rows are fewer where one is large, ...
BYTES = 32 << 20
#: ... and where even `FEW` of them take more than this, the policy is refused.
MOST_BYTES = 256 << 20
FEW = 8
#: A score that turns by more than this (of the larger of threshold and 1) jumps: rounding elsewhere
#: may take another side of the jump. An answer whose two largest classes are nearer may be the other.
JUMP = 64 * 2.0**-23
_MOST = 256 << 20  # bytes of the file
#: Bytes of all arrays: twice what is written, since some rows at thresholds are added to others.
_MOST_UNPACKED = 2 * MOST_BYTES
_MOST_ROWS = 1 << 20
_HEADER = 10_128  # bytes of an array's header at most
_AGAIN = "Export anew."
#: Columns of a summary; the first two must be there.
_SUMMARY = {"prediction": "<i4", "confidence": "<f8", "second": "<f8", "entropy": "<f8"}


@dataclass(frozen=True, eq=False)
class Ran:
    """What a runtime says of n samples at every exit, (n, K), whether or not they have left before."""

    score: Floats
    confidence: Floats
    prediction: Array  # int32
    leave: Bools  # score at or over the threshold; always at the last exit
    abstained: Bools  # who leaves here and is handed over

    @property
    def exit(self) -> Ints:
        """Position of the exit taken, (n,)."""
        return self.leave.argmax(axis=1)

    @classmethod
    def empty(cls, n: int, exits: int) -> Ran:
        """Return one to be filled, in which nobody leaves or is handed over."""
        kinds = (float, float, np.int32, bool, bool)
        return cls(*(np.zeros((n, exits), dtype=kind) for kind in kinds))

    def put(self, rows: Any, at: int, seen: Any) -> None:
        """Take down what was decided of some rows at a position of the path."""
        self.score[rows, at], self.confidence[rows, at] = seen.score, seen.confidence
        self.prediction[rows, at], self.leave[rows, at] = seen.number, seen.exit
        self.abstained[rows, at] = seen.abstained


@dataclass(frozen=True, eq=False)
class Walk:
    """What a runtime did with n samples, call by call, (n, T); nothing after the last."""

    model: Array  # int32: who was asked; -1 of nobody
    prediction: Array  # int32: the answer that would be given then; -1
    gain: Floats  # of asking the best that may be asked next; 0

    @classmethod
    def empty(cls, n: int, steps: int) -> Walk:
        """Return one to be filled."""
        none = np.full((n, steps), -1, np.int32)
        return cls(none, none.copy(), np.zeros((n, steps)))

    def put(self, rows: Any, at: int, model: Any, prediction: Any, gain: Any) -> None:
        """Take down a call of some rows, and what followed."""
        self.model[rows, at], self.prediction[rows, at] = model, prediction
        self.gain[rows, at] = gain


def steps_of(policy: RoutingPolicy) -> int:
    """Return T, the most models that a sample may be shown to."""
    return max(len(one.called) for arm in policy.arms for one in arm.standings)


@dataclass(frozen=True)
class LeftOut:
    """Candidates for golden vectors that were left out, for they are within rounding of a threshold."""

    rows: int = 0
    of: int = 0  # candidates
    #: How near that is, by exit but the last: units of 2**-23 of the larger of score, threshold and 1. 0
    #: where scores have the same bits everywhere: there nothing is left out.
    ulps: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Golden:
    """Samples and what is expected of them."""

    #: Per position on the path: ``logits`` or another kind (n, W) float32; for records
    #: ``prediction`` (n,) int32, ``confidence``, ``second``, ``entropy`` (n,) float64 as far as
    #: they are read; ``features`` (n, D) float32 where they are.
    inputs: list[Inputs]
    #: Numbers of the samples, counters of the coin, (n,); of a family (n, 2): these, and their levels.
    sample: Ints
    expected: Any  # `Ran`, of a routing policy `Walk`: by `policyopt.runtime`
    boundary: Golden | None = None  # samples as near to the thresholds as can be
    left_out: LeftOut = field(default_factory=LeftOut)
    #: Whose class rounding elsewhere cannot change, at any exit; empty where it was not looked at.
    sure: Bools = field(default_factory=lambda: np.ones(0, dtype=bool))

    def __len__(self) -> int:
        return len(self.sample)


def exported(policy: Any) -> Any:
    """Return the policy or family that this is, or that a fit holds; other policies have no exports."""
    found = policy_of(policy, routes=True)
    whole = isinstance(found, RoutingPolicy) or (
        isinstance(found, PolicyFamily) and not found.routes
    )
    return found if whole else policy_of(found, single=True)


def levels_of(policy: Policy | PolicyFamily) -> tuple[Policy, ...]:
    """Return the policies of a family's levels, or the one there is."""
    return policy.policies if isinstance(policy, PolicyFamily) else (policy,)


def costs_by_level(policy: Policy | PolicyFamily) -> Floats:
    """Return what leaving costs at each exit of the path, (L, K); NaN where a level skips it."""
    each = levels_of(policy)
    costs = np.full((len(each), policy.exits), np.nan)
    for row, one in zip(costs, each, strict=True):
        row[np.searchsorted(policy.active_exits, one.active_exits)] = one.costs
    return costs


def numbered(policy: Policy | PolicyFamily, low: int, high: int) -> Ints:
    """Return the numbers `low` to `high` of samples, those of a family on its levels in turn."""
    numbers = np.arange(low, high)
    levels = len(levels_of(policy))
    return np.stack([numbers, numbers % levels], 1) if isinstance(policy, PolicyFamily) else numbers


def by_name(sample: Ints) -> dict[str, Ints]:
    """Return the numbers of samples, and their levels where they have such, by the names of the graphs' inputs."""
    columns = sample.T if sample.ndim > 1 else [sample]
    return dict(zip(("sample", "level"), columns, strict=False))


def begin(policy: Policy | PolicyFamily, sample: Ints) -> Any:
    """Return the state of samples before the first exit."""
    if isinstance(policy, PolicyFamily):
        return policy.start(sample[:, 1], sample[:, 0])
    return policy.start(sample)


def words(policy: Policy | PolicyFamily, part: str) -> str:
    """Return the names of the scores (`rule`) or answers, for people."""
    return ", ".join(dict.fromkeys(getattr(one, part).name for one in levels_of(policy)))


def stepped(policy: Any, k: int, given: Inputs, state: Any) -> Any:
    """Return what a policy decides at an exit of inputs by name."""
    return policy.step(k, given_output(policy, given), state, given.get("features"))


def expect(policy: Any, inputs: list[Inputs], sample: Ints) -> Golden:
    """Return golden vectors: what `policyopt.runtime` says of some inputs."""
    n = len(sample)
    ran, sure = Ran.empty(n, policy.exits), np.ones(n, dtype=bool)
    for part in few_at_a_time(inputs, n):
        state = begin(policy, sample[part])
        at_exits = zip(policy.active_exits, rows_of(inputs, part), strict=True)
        for at, (k, given) in enumerate(at_exits):
            seen = stepped(policy, k, given, state)
            ran.put(part, at, seen)
            sure[part] &= sure_class(policy, given, seen)
            if policy.abstains:
                sure[part] &= _sure_abstaining(policy, at, sample[part], seen)
    return Golden(inputs, sample, ran, sure=sure)


def _sure_abstaining(policy: Any, at: int, sample: Ints, seen: Any) -> Bools:
    """Return of whom rounding elsewhere cannot change whether they are handed over, (n,)."""
    limits = np.full(len(sample), np.nan)
    for a, one in enumerate(levels_of(policy)):
        k = policy.active_exits[at]
        if one.abstention is not None and k in one.active_exits:
            mine = slice(None) if sample.ndim == 1 else sample[:, 1] == a
            limits[mine] = one.abstention.thresholds[one.active_exits.index(k)]
    with np.errstate(invalid="ignore"):
        return ~(np.abs(seen._standing - limits) <= JUMP * np.maximum(np.abs(limits), 1.0))


def sure_class(policy: Any, given: Inputs, seen: Any) -> Bools:
    """Return whose class rounding elsewhere cannot change, (n,): of logits as they are, nobody's."""
    plain = all(isinstance(one.answer, Identity) for one in levels_of(policy))
    kind = policy.observer.kind
    told = kind.whole and policy.classes > 1 and not (plain and kind.name in ("logits", "logit"))
    if not told or seen.answer is None:  # or all are on levels that skip the exit
        return np.ones(len(seen.score), dtype=bool)
    top = np.partition(seen.answer, -2, axis=1)[:, -2:]
    with np.errstate(invalid="ignore"):
        sure = ~(top[:, 1] - top[:, 0] <= JUMP)  # NaN: at an exit that a level skips
    if plain:  # equal probabilities have equal logarithms everywhere
        shares = given[kind.name]
        shares = np.concatenate([1 - shares, shares], axis=1) if kind.single else shares
        top = np.partition(shares, -2, axis=1)[:, -2:]
        sure |= top[:, 1] == top[:, 0]
    return sure


def row_bytes(policy: Any, graphs: Any) -> int:
    """Return how many bytes the inputs of one sample take, all exits together."""
    kind = policy.observer.kind
    width = 32 if kind.record else 4 * kind.width(policy.classes)
    features = sum(g.inputs["features"].size for g in graphs if "features" in g.inputs)
    exits = len(policy.active_exits)
    size = exits * (width + 64) + 4 * features
    arms = sum(1 if one.mixture is None else 2 for one in levels_of(policy))
    if size * max(FEW, 2 * arms * (exits - 1)) > MOST_BYTES:
        raise input_error(
            "policy", f"small enough that golden vectors take at most {MOST_BYTES >> 20} MiB, {FEW} rows "
            "and 2 at each threshold",
            f"{exits} exits of {policy.classes} classes: {size:,} bytes a row",
            "Deploy it with policyopt.runtime, or keep fewer exits.",
        )  # fmt: skip
    return size


def joined(one: Golden, other: Golden) -> Golden:
    """Return the rows of one, then those of the other; without those at thresholds."""

    def both(here: Any, there: Any) -> dict[str, Any]:
        return {name: np.concatenate([array, there[name]]) for name, array in here.items()}

    inputs = [both(here, there) for here, there in zip(one.inputs, other.inputs, strict=True)]
    expected = type(one.expected)(**both(vars(one.expected), vars(other.expected)))
    sample = np.concatenate([one.sample, other.sample])
    sure = np.append(one.sure, other.sure)
    return Golden(inputs, sample, expected, sure=sure)


def part_of(golden: Golden, rows: Any) -> Golden:
    """Return some rows, without those at thresholds."""
    expected = type(golden.expected)(**{n: a[rows] for n, a in vars(golden.expected).items()})
    sure = golden.sure[rows] if len(golden.sure) else golden.sure
    return Golden(rows_of(golden.inputs, rows), golden.sample[rows], expected, sure=sure)


def few_at_a_time(inputs: list[Inputs], n: int) -> Iterator[slice]:
    """Yield which rows to look at side by side: a step takes some ten numbers per class and row."""
    width = max((a[:1].size for given in inputs for a in given.values()), default=1)
    size = max(BYTES // (64 * max(width, 1)), 1)
    return (slice(low, low + size) for low in range(0, max(n, 1), size))


def rows_of(inputs: list[Inputs], rows: Any) -> list[Inputs]:
    """Return some rows of inputs."""
    return [{name: array[rows] for name, array in given.items()} for given in inputs]


def given_output(policy: Any, given: Inputs) -> Any:
    """Return the output of an exit as `Policy.step` takes it."""
    if not policy.observer.kind.record:
        return given[policy.kind]
    columns: dict[str, Any] = {
        n: given[n] for n in given.keys() - {"second", "features", "cost", "query"}
    }
    if "second" in given:
        columns["top_prob"] = np.stack([given["confidence"], given["second"]], axis=1)
    return columns


def write_golden(golden: Golden, path: Path) -> None:
    """Write golden vectors as an .npz: keys ``input<position>:<name>``, ``sample``, and those of `Ran`."""
    inputs = {
        f"input{at}:{name}": array
        for at, given in enumerate(golden.inputs)
        for name, array in given.items()
    }
    size = sum(array.nbytes + _HEADER for array in inputs.values())
    size += sum(2 * array.nbytes + _HEADER for array in vars(golden.expected).values())
    if size > _MOST_UNPACKED or len(golden) > _MOST_ROWS:
        got = f"{len(golden)} rows, {size} bytes"
        step = "Fewer: --rows."
        raise input_error("golden rows", f"of {_MOST_UNPACKED} bytes at most", got, step)
    arrays: dict[str, Any] = {**inputs, **vars(golden.expected), "sample": golden.sample}
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    write_file(path, data.getvalue())


def read_golden(path: Path, policy: Any, rows: int) -> Golden:
    """Return so many golden vectors; arrays are checked by name, shape and type before they are read."""
    name = path.name
    data = read_plain(path, name, _MOST, _AGAIN)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_zip(archive, path, name)
            return _read(archive, name, policy, rows)
    except InputError:
        raise
    except Exception as error:  # zip, deflate and numpy raise many kinds on damaged files
        got = f"one that is damaged: {error}"
        raise input_error(name, "an .npz of golden vectors", got, _AGAIN) from error


def _read(archive: zipfile.ZipFile, file: str, policy: Any, rows: int) -> Golden:
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if sum(info.file_size for info in infos.values()) > _MOST_UNPACKED:
        raise input_error(file, f"of {_MOST_UNPACKED} bytes unpacked at most", "more", _AGAIN)
    if rows > _MOST_ROWS:
        raise input_error(file, f"of at most {_MOST_ROWS} rows", "more", _AGAIN)

    def read(name: str, dtype: str, *more: int | None) -> Array:
        """Return an array of that type and shape after the rows; None: any number from 1 on."""
        label, shape = f"{name} of {file}", (rows, *more)
        if name not in infos:
            raise input_error(file, "whole", f"no '{name}'", _AGAIN)
        info = infos.pop(name)
        wanted = f"{dtype} of shape {tuple('any' if n is None else n for n in shape)}"
        most = math.prod(n or 0 for n in shape) * np.dtype(dtype).itemsize + _HEADER
        if None not in shape and info.file_size > most:
            raise input_error(label, wanted, f"{info.file_size} bytes", _AGAIN)
        with archive.open(info) as member:
            got, kind, _ = read_header(member, label)  # type: ignore[arg-type]
            pairs = zip(got, shape, strict=False)
            fits = len(got) == len(shape) and all(n > 0 if m is None else n == m for n, m in pairs)
            if kind != np.dtype(dtype) or not fits:
                raise input_error(label, wanted, f"{kind} of shape {got}", _AGAIN)
            member.seek(0)
            return read_member(member, info, label)

    pair = (2,) if isinstance(policy, PolicyFamily) else ()
    sample, exits, inputs = read("sample", "<i8", *pair), len(policy.active_exits), []
    if pair and ((sample[:, 1] < 0) | (sample[:, 1] >= len(levels_of(policy)))).any():
        raise input_error(f"sample of {file}", "of levels that there are", "others", _AGAIN)
    kind = policy.observer.kind
    for at in range(exits):
        given: Inputs = {}
        if not kind.record:
            width = kind.width(policy.classes)
            given[policy.kind] = read(f"input{at}:{policy.kind}", "<f4", width)
        else:
            for i, (column, dtype) in enumerate(_SUMMARY.items()):
                if i < 2 or f"input{at}:{column}" in infos:
                    given[column] = read(f"input{at}:{column}", dtype)
        if policy.needs_features:
            given["features"] = read(f"input{at}:features", "<f4", None)
        if getattr(policy, "needs_costs", False):
            given["cost"] = read(f"input{at}:cost", "<f8")
        if at == 0 and (width := getattr(policy, "needs_query", 0)):
            given["query"] = read("input0:query", "<f4", width)
        inputs.append(given)
    whole, steps = (Walk, steps_of(policy)) if isinstance(policy, RoutingPolicy) else (Ran, exits)
    empty = vars(whole.empty(1, 1))
    expected = whole(**{name: read(name, one.dtype.str, steps) for name, one in empty.items()})
    if infos:
        raise input_error(file, "of the policy's exits", f"'{min(infos)}' besides", _AGAIN)
    return Golden(inputs, sample, expected)
