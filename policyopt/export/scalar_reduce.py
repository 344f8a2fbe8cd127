"""`runtime.output.reduce_logits` of one sample, in plain numbers: the columns that are read, no others."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from .graph import Node

if TYPE_CHECKING:
    from .scalar_source import _Writer


def reduced(writer: _Writer, node: Node) -> None:
    """Write the statements of a reduction, and name the columns read.

    Logits that were computed may be ordered otherwise than the runtime's: where a class is read, it
    must be ahead of the next by more than rounding, or the function is left.

    Parameters
    ----------
    writer : _Writer
    node : Node
        Of operation ``reduce``.
    """
    fields = {f.attrs["name"]: f for f in writer.nodes if f.op == "field" and f.args[0] is node}
    classes = node.args[0].size
    row = writer.atom(node.args[0]) if classes > 1 else writer.named(writer.items(node.args[0]))
    probs, ranked = (
        _columns(writer, fields.get("top_prob")),
        _columns(writer, fields.get("top_class")),
    )
    named = 1 + max([0 if "prediction" in fields else -1, *ranked])  # classes wanted, by rank
    sure = writer.exact(node.args[0])
    count = min(
        max([named + (0 if sure else named > 0), *(rank + 1 for rank in probs), 1]), classes
    )
    peaks, places = _ranks(writer, row, count, named)
    if not sure:
        for rank in range(min(named, classes - 1)):
            near = writer.near([node.args[0]]).format(peaks[rank])
            writer.lines.append(f"if not {peaks[rank]} - {peaks[rank + 1]} > {near}: return None")
    values = {"prediction": places[0] if named else ""}
    if probs or fields.keys() & {"entropy", "log_sum_exp"}:
        values |= _masses(writer, node, row, peaks[0], fields.keys())
    total = values.get("total", "")
    chances = {
        rank: writer.named(f"exp({peaks[rank]} - {peaks[0]}) / {total}" if rank else f"1.0 / {total}")
        for rank in probs
    }  # fmt: skip
    for name, field in fields.items():
        if name in ("top_prob", "top_class"):
            _name(writer, field, chances if name == "top_prob" else dict(enumerate(places)))
        else:
            writer.names[id(field)] = values[name]


def _columns(writer: _Writer, field: Node | None) -> list[int]:
    """Return which ranks of a field are read."""
    if field is None:
        return []
    users = writer.users.get(id(field), [])
    if field.size > 1 and all(user.op == "slice" and user.size == 1 for user in users):
        return sorted({int(user.attrs["start"]) for user in users})
    return list(range(field.size))


def _name(writer: _Writer, field: Node, by_rank: dict[int, str]) -> None:
    """Name a field, or its slices of one number where only these are read."""
    users = writer.users.get(id(field), [])
    if field.size == 1:
        writer.names[id(field)] = by_rank[0]
    elif all(user.op == "slice" and user.size == 1 for user in users):
        for user in users:
            writer.names[id(user)] = by_rank[int(user.attrs["start"])]
        writer.names[id(field)] = "None"
    else:
        ranks = [by_rank[rank] for rank in range(field.size)]
        writer.names[id(field)] = writer.named(f"[{', '.join(ranks)}]")


def _ranks(writer: _Writer, row: str, count: int, named: int) -> tuple[list[str], list[str]]:
    """Return the largest numbers and, as far as they are wanted, their places."""
    peaks, places, left = [], [], row
    for rank in range(count):
        peaks.append(writer.named(f"max({left})"))
        if rank < named or rank + 1 < count:
            at = writer.named(f"{left}.index({peaks[-1]})")
            if rank + 1 < count:
                following = writer.named(f"{left}[:{at}] + {left}[{at} + 1:]")
                left = following
            for earlier in reversed(places):  # back to places among all
                at = writer.named(f"{at} + ({at} >= {earlier})") if rank < named else at
            places.append(at)
    return peaks, places


def _masses(
    writer: _Writer, node: Node, row: str, peak: str, wanted: Container[str]
) -> dict[str, str]:
    """Return the names of the sum of exponentials and of what is made of it."""
    entropy, parts, spread = "entropy" in wanted, writer.unpacked(node.args[0]), ""
    if parts and entropy:
        apart = [writer.named(f"{part} - {peak}") for part in parts]
        odds = [writer.named(f"exp({each})") for each in apart]
        total = writer.named(" + ".join(odds))
        spread = " + ".join(f"{e} * {d}" for e, d in zip(odds, apart, strict=True))
    elif parts:
        total = writer.named(" + ".join(f"exp({part} - {peak})" for part in parts))
    elif entropy:
        away = writer.named(f"[e - {peak} for e in {row}]")
        mass = writer.named(f"[exp(e) for e in {away}]")
        total, spread = writer.named(f"sum({mass})"), f"sum(map(mul, {mass}, {away}))"
    else:
        total = writer.named(f"sum([exp(e - {peak}) for e in {row}])")
    found = {"total": total}
    if entropy or "log_sum_exp" in wanted:
        log_total = writer.named(f"log({total})")
        found["log_sum_exp"] = writer.named(f"{peak} + {log_total}")
        if entropy:
            nats = writer.named(f"{log_total} - ({spread}) / {total}")
            found["entropy"] = writer.named(f"{nats} if {nats} >= 0.0 else 0.0")
    return found
