"""What fuzzing needs: damage to bytes, twists of JSON, a guard on time and memory; a seed and a number tell a case."""

import copy
import io
import json
import random
import re
import signal
import tracemalloc
import zipfile
from contextlib import contextmanager
from functools import reduce
from operator import getitem
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from policyopt.runtime._errors import PolicyOptError
from policyopt.runtime._strict_json import digest_of

HUGE = (
    1e308, -1e308, 1e-320, 2**31, 2**53 + 1, -(2**63), 2**64, 10**39, 10**18, 1 << 40, 0.1, -1, 0, 1,
)  # fmt: skip
ODD = (
    None, True, False, "", "x", "x" * 300, "\ud800", "../../etc/passwd", "NaN", "1e400", [], {}, [[]],
    [None], [{}], {"a": 1}, {"name": "plain"}, {"name": "max_prob", "params": {}}, 0.5, -0.0, [0.5, 0.7],
)  # fmt: skip
#: Texts that JSON does not know or Python reads too kindly, put in the place of a value.
RAW = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e999", b"1" * 60, b"9" * 5000, b"01", b"+1", b".5", b"1.",
    b"0x10", b"'a'", b"nul", b'"\\ud800"', b'"\\x"', b'"\x01"', b'"\xff"', b"[" * 40 + b"]" * 40, b"[1,]",
    b'{"a":1,"a":1}', b"{}}", b"//", b"\xef\xbb\xbf1", b"\xed\xa0\x80", b"1 1",
)  # fmt: skip
#: What a header may claim of an array: it decides what is allocated.
SHAPES = b"(9**9,) (99999999999,) (-6,) (6,0) (3,) (999999999,3) (5,1000000) (-1,3)".split()
#: Of examples that are drawn anew: a batch has a seed, which does not shrink; the failing case tells itself.
SETTINGS: dict[str, Any] = {
    "deadline": None, "database": None, "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}  # fmt: skip
BATCH = 100


def in_batches(
    case: Any, guard: Any, examples: int, least: float = 0.02, most: float = 0.6
) -> None:
    """Try `case` on a random source and its number, `BATCH` times an example, and see some loaded, some refused."""

    @settings(max_examples=examples, **SETTINGS)
    @given(st.integers(0, 2**32))
    def batches(seed):
        draw = random.Random(seed)
        for number in range(BATCH):
            case(draw, (seed, number))

    with traced():
        batches()
    assert guard.cases >= examples * BATCH
    # Neither all refused nor all let through: else nothing was tried.
    assert guard.cases * least < guard.loaded < guard.cases * most, (guard.loaded, guard.cases)


def damaged(random: Any, data: bytes) -> bytes:
    """Return a copy with bytes flipped, cut, put in, doubled, or a value replaced by raw text."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not out:
            break
        at = random.randrange(len(out))
        match random.randrange(8):
            case 0 | 1 | 2:
                out[at] ^= 1 << random.randrange(8)
            case 3:
                out[at] = random.randrange(256)
            case 4:
                del out[at:]
            case 5:
                del out[at : at + random.choice((1, 2, 8, 100))]
            case 6:
                out[at:at] = out[at : at + random.choice((1, 5, 40, 400))]
            case _:
                end = next((i for i in range(at, len(out)) if out[i] in b",]}\n"), len(out))
                start = next((i for i in range(at, 0, -1) if out[i - 1] in b":,[{\n"), 0)
                out[start:end] = random.choice(RAW)
    return bytes(out)


def forged_archive(random: Any, data: bytes) -> bytes:
    """Return an ``.npz`` one of whose arrays says of itself what is not so, all checksums right."""
    out, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(data))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        chosen = random.choice(old.namelist())
        for name in old.namelist():
            member = old.read(name)
            if name == chosen and random.random() < 0.5:
                member = damaged(random, member[:128]) + member[128:]
            elif name == chosen:
                shape = re.search(rb"(?<='shape': )\([^)]*\)", member)[0]
                member = member.replace(shape, random.choice(SHAPES).ljust(len(shape)), 1)
            new.writestr(name, member)
    return out.getvalue()


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = []
    inner: Any = enumerate(node) if isinstance(node, list) else ()
    for key, value in node.items() if isinstance(node, dict) else inner:
        found.append((*path, key))
        found += paths(value, (*path, key))
    return found


def twisted(random: Any, content: Any) -> Any:
    """Return a copy with parts dropped, doubled, retyped, made huge, moved, nested or renamed."""
    content = copy.deepcopy(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = paths(content)
        if not places:
            break
        # Top fields are few among many numbers: half of the twists go to them or the next level.
        if random.random() < 0.5:
            places = [p for p in places if len(p) <= 2] or places
        *way, key = random.choice(places)
        at = reduce(getitem, way, content)
        value = at[key]
        match random.randrange(10):
            case 0:
                del at[key]
            case 1 if isinstance(at, list):
                at.insert(key, copy.deepcopy(value))
            case 1:
                at[random.choice(("colour", "__class__", "score", "name", ""))] = copy.deepcopy(
                    value
                )
            case 2 | 3:
                at[key] = random.choice(HUGE)
            case 4 | 5:
                at[key] = copy.deepcopy(random.choice(ODD))
            case 6:
                at[key] = [value]
            case 7 if isinstance(value, (int, float)):
                at[key] = random.choice((value + 1, -value, value * 0.5, float(value), str(value)))
            case 7 if isinstance(value, list):
                at[key] = value * random.choice((0, 2, 50))
            case 8:
                at[key] = copy.deepcopy(reduce(getitem, random.choice(paths(content)), content))
            case _:
                for _ in range(random.choice((3, 20, 40))):
                    value = [value]
                at[key] = value
    return content


def signed(content: Any) -> Any:
    if isinstance(content, list):
        return [signed(part) for part in content]
    if not isinstance(content, dict):
        return content
    body = {k: signed(v) for k, v in content.items() if k != "sha256"}
    return {**body, "sha256": digest_of(body)} if "sha256" in content else body


def text_of(content: Any) -> bytes:
    return (json.dumps(content) + "\n").encode()


def difference(given: Any, got: Any, path: str = "") -> str | None:
    """Say where a file's content and what was read from it differ, but for defaults and how numbers are written."""
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (given, got))
    if not numbers and type(given) is type(got) and isinstance(given, (dict, list)):
        some, all_ = (
            (x if isinstance(x, dict) else dict(enumerate(x))).keys() - {"sha256"}
            for x in (given, got)
        )
        if not some <= all_ or (some < all_ and not path.endswith(("/params", "/settings"))):
            return f"{path}: {sorted(some)} and {sorted(all_)}"
        found = (difference(given[key], got[key], f"{path}/{key}") for key in some)
        return next((where for where in found if where), None)
    same = float(given) == float(got) if numbers else type(given) is type(got) and given == got
    return None if same else f"{path}: {given!r} and {got!r}"[:300]


class Guard:
    """Loads that must end in an object or in an error of ours, in bounded time and memory."""

    def __init__(self, free: int = 1 << 20, factor: int = 60, seconds: float = 2.0) -> None:
        self.free, self.factor, self.seconds = free, factor, seconds
        self.cases, self.loaded = 0, 0

    def load(self, loader: Any, size: int, what: Any) -> Any:
        """Return what the loader gives for a file of `size` bytes; None where it was refused."""
        self.cases += 1
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            with limited(self.seconds):
                value = loader()
        except PolicyOptError as error:
            assert str(error), what
            value = None
        except BaseException as error:
            error.add_note(f"case: {what!r}"[:3000])
            raise
        grown = tracemalloc.get_traced_memory()[1] - before
        assert grown <= self.free + self.factor * size, (grown, size, what)
        self.loaded += value is not None
        return value


@contextmanager
def limited(seconds: float):
    """Raise TimeoutError after so much processor time, or where a load waits (say, for a pipe)."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"a load took over {seconds} s")

    virtual = signal.ITIMER_VIRTUAL, signal.SIGVTALRM, seconds
    timers = (virtual, (signal.ITIMER_REAL, signal.SIGALRM, 30 * seconds))
    old = [signal.signal(sign, stop) for _, sign, _ in timers]
    for timer, _, most in timers:
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for (timer, sign, _), handler in zip(timers, old, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(sign, handler)


@contextmanager
def traced():
    if tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
