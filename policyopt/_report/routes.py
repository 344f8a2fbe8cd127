"""What a routing policy does on the rows of a table: which model is asked after which, as data and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt._intervals import worth_fields
from policyopt._replay import Replay, replay
from policyopt._report.figures import COLOURS, add_heading, new_figure
from policyopt._table import Table, known_rows
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._shown import Shown
from policyopt.runtime._text import picture_text

_RARE = 0.01  # share of the rows that a way must have to be told
_TURNS = 7  # calls that are drawn
_ROOM, _LEAST = 0.03, 0.02  # between bars of a column; share that has room for two lines


@dataclass(frozen=True, eq=False, repr=False)
class Routes(Shown):
    """What a policy did with N rows; `record`: JSON-able."""

    record: dict[str, Any]
    policy: RoutingPolicy
    found: Replay
    labels: Any

    def rows(self) -> list[dict[str, Any]]:
        """Return a record per row: models asked in turn, what was answered, its cost and worth."""
        found, names = self.found, [self.policy.called(m) for m in range(self.policy.model_exits)]
        asked = [[names[m] for m in way if m >= 0] for way in ways_of(found).tolist()]
        head = {"row": range(len(found.exit)), "label": self.labels, "asked": asked}
        names = ("exit", "prediction", "cost", "quality")
        return records_of(head | {name: getattr(found, name) for name in names})


def records_of(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a record per row of columns; those that are None are left out."""
    known = {name: column for name, column in columns.items() if column is not None}
    lists = [c.tolist() if isinstance(c, np.ndarray) else c for c in known.values()]
    return [dict(zip(known, row, strict=True)) for row in zip(*lists, strict=True)]


def stated(policy: Policy | RoutingPolicy) -> dict[str, Any]:
    """Return what a policy says of its fit."""
    names = ("method", "settings", "budget", "expected_cost")
    return {name: policy.provenance.get(name) for name in names}


def ways_of(found: Any) -> Any:
    """Return the models that each row asked, one after the other, (N, T); -1 after the last."""
    ways = np.full((len(found.exit), max(int(found.turn.max(initial=1)), 1)), -1)
    rows, models = np.nonzero(found.turn)
    ways[rows, found.turn[rows, models] - 1] = models
    return ways


def tree_of(found: Replay) -> dict[tuple[int, ...], dict[str, Any]]:
    """Return, by the models asked in turn, which share of the rows comes so far and stops there, and how these fare."""
    distinct, at = np.unique(ways_of(found), axis=0, return_inverse=True)
    at = at.reshape(-1)
    counts = np.bincount(at)
    cost, worth = (np.bincount(at, column) / counts for column in (found.cost, found.quality))
    tree: dict[tuple[int, ...], dict[str, Any]] = {}
    for way, count, c, q in zip(distinct.tolist(), counts.tolist(), cost, worth, strict=True):
        called, share = tuple(m for m in way if m >= 0), count / len(at)
        for depth in range(1, len(called) + 1):
            new = {"depth": depth, "share": 0.0, "stop": 0.0, "cost": None, "quality": None}
            tree.setdefault(called[:depth], new)["share"] += share
        tree[called] |= {"stop": share, "cost": float(c), "quality": float(q)}
    return tree


def explain_routing(policy: RoutingPolicy, table: Table) -> Routes:
    """Explain what a routing policy does with the labelled rows of a table."""
    notes = list[str]()
    table = known_rows(table, notes)
    found = replay(policy, table)
    n, asked = len(found.exit), found.turn > 0  # type: ignore[operator]
    alone = np.broadcast_to(table.standalone_costs, asked.shape)
    paid = np.where(asked, alone, 0.0).mean(axis=0)
    models = [
        {
            "exit": m, "model": policy.called(m), "cost": float(alone[:, m].mean()),
            "asked": float(asked[:, m].mean()), "first": float((found.turn[:, m] == 1).mean()),  # type: ignore[index]
            "last": float((found.exit == m).mean()), "cost_share": float(paid[m] / max(paid.sum(), 1e-300)),
        }
        for m in policy.active_exits
    ]  # fmt: skip
    tree = tree_of(found)
    for way, one in tree.items():
        one |= {"asked": [policy.called(m) for m in way], "model": policy.called(way[-1])}
    kept = [way for way, one in tree.items() if one["share"] >= _RARE]
    # A way stands under the one that it goes on from, those that more rows go first.
    kept.sort(key=lambda w: [(-tree[w[:d]]["share"], w[d - 1]) for d in range(1, len(w) + 1)])
    record = {
        "policy": stated(policy), "split": table.split, "rows": n, "unit": table.unit,
        "realised_cost": float(found.cost.mean()),
        **worth_fields(float(found.quality.mean()), found.graded),
        "models": models, "ways": [tree[way] for way in kept],
        "rare": 1.0 - sum(tree[way]["stop"] for way in kept), "flows": _flows(tree), "notes": notes,
    }  # fmt: skip
    return Routes(record, policy, found, table.statistics.labels)


def _flows(tree: dict[tuple[int, ...], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, per call and model, how many rows ask it, from which model they come, and how those that stop fare."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for way, one in tree.items():
        depth, model = one["depth"], one["model"]
        bare = {"turn": depth, "model": model, "exit": way[-1], "share": 0.0, "stop": 0.0}
        here = found.setdefault((depth, model), {**bare, "right": 0.0, "from": {}})
        here["share"] += one["share"]
        here["stop"] += one["stop"]
        here["right"] += one["stop"] * (one["quality"] or 0.0)
        if depth > 1:
            before = one["asked"][-2]
            here["from"][before] = here["from"].get(before, 0.0) + one["share"]
    for one in found.values():
        right = one.pop("right")
        one["quality"] = right / one["stop"] if one["stop"] else None
    return sorted(found.values(), key=lambda one: (one["turn"], one["exit"]))


def routes_figure(record: dict[str, Any], title: str = "") -> Any:
    """Draw who is asked after whom: a column per call, bars as wide as shares of rows, the grey part of each stops."""
    turns = max(one["turn"] for one in record["flows"])
    figure = new_figure(min(3.0 + 2.2 * min(turns, _TURNS), 15.0), 5.4)
    draw_routes(figure.subplots(), record)
    more = f"; calls after {_TURNS} are not drawn" if turns > _TURNS else ""
    told = f"mean cost {record['realised_cost']:.4g} {picture_text(record['unit'])}, "
    told += f"{'accuracy' if record['accuracy'] is not None else 'quality'} {100 * record['quality']:.2f} %; "
    add_heading(figure, title, told + "grey: stop there, and how many of those are right" + more)
    return figure


def draw_routes(axes: Any, record: dict[str, Any]) -> None:
    """Draw the same into given axes."""
    flows = [one for one in record["flows"] if one["turn"] <= _TURNS]
    turns = max(one["turn"] for one in flows)
    colours = {m["model"]: COLOURS[i % len(COLOURS)] for i, m in enumerate(record["models"])}
    place: dict[
        tuple[int, str], list[float]
    ] = {}  # of each bar: its top, then where its next stream leaves
    for turn in range(1, turns + 1):
        top = 0.0
        for one in (f for f in flows if f["turn"] == turn):
            place[turn, one["model"]] = [top, top]
            top -= one["share"] + _ROOM
    width = 0.10
    for one in flows:
        turn, share, model = one["turn"], one["share"], one["model"]
        top = place[turn, model][0]
        axes.bar(turn, -share, width, top, color=colours[model], linewidth=0)
        gone = one["stop"]
        axes.bar(turn, gone, width, top - share, color="0.72", linewidth=0)
        into = top
        order = [f["model"] for f in flows if f["turn"] == turn - 1]
        for before in sorted(one["from"], key=order.index):
            size, leaves = one["from"][before], place[turn - 1, before]
            start, end = (turn - 1 + width / 2, leaves[1]), (turn - width / 2, into)
            _stream(axes, start, end, size, colours[before])
            leaves[1] -= size
            into -= size
        told = f"{'model ' * model.isdigit()}{picture_text(model)}: {100 * share:.{int(share < 0.01)}f} %"
        if one["quality"] is not None and gone >= 0.005 and share >= _LEAST:
            told += f"\nstop {100 * gone:.0f} %, {100 * one['quality']:.1f} % right"
        size = 8 if share >= _LEAST else 6.5  # one line, in the room between bars
        axes.text(turn + width / 2 + 0.02, top - share / 2, told, va="center", fontsize=size)
    axes.set_xticks(range(1, turns + 1), [f"call {turn}" for turn in range(1, turns + 1)])
    axes.set(xlim=(0.8, turns + 0.75), yticks=[])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def _stream(
    axes: Any, start: tuple[float, float], end: tuple[float, float], size: float, colour: str
) -> None:
    """Draw a stream of rows from the right of one bar to the left of another."""
    at = np.linspace(0.0, 1.0, 40)
    bend = at * at * (3 - 2 * at)
    x = start[0] + (end[0] - start[0]) * at
    y = start[1] + (end[1] - start[1]) * bend
    axes.fill_between(x, y, y - size, color=colour, alpha=0.35, linewidth=0)
