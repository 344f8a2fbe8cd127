"""How near is routing to the best policy there is? Made worlds whose optimum is known, by dynamic programming.

A world has rows of five kinds and five models: a cheap one that knows one kind, three that know two each, and a dear
one that knows all. Of a row of a kind, each model is right with a chance of its own, and says one of five confidences,
the nearer to that chance the likelier; the cheap model's tell kinds apart, in an order of their own. So a policy that
knows the world knows, after each answer, how likely each kind is, and the best one at a price of cost follows by
dynamic programming over models called and confidences told. A *list* asks models in one order and stops where that is
best, by the same computation; a *fixed* list asks all its models of all rows. The optimum is held against the best of
both. Worlds are those, of random ones, where it leads the best list by 3 points or more on average over
budgets: where jumping pays.

`routing` is fitted on rows drawn from the world and valued *under the world*, over all that models can say, not on
other rows. Told is which share of the optimum's lead it has, at its own true cost: never above 100 %.

    python benchmarks/routing_optimum.py            # ten minutes
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from _common import table

import policyopt as po
from policyopt._methods.registry import make_method

OUT = Path(__file__).parent / "results" / "routing_optimum.json"
MODELS, KINDS, LEVELS = 5, 5, (0.1, 0.3, 0.5, 0.7, 0.9)
#: Which models know which kinds well, (T, K).
KNOWS = np.array(
    [[1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], bool
)
COSTS = np.array([1.0, 3.0, 3.0, 3.0, 12.0])
PRICES = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 20)])
WORLDS, ROWS, DRAWS = 2, (500, 5000), 1
BUDGETS = (1.5, 2.5, 3.5, 5.0, 7.0)
LEAST = 0.03  # lead of the optimum

Standing = tuple[int, ...]


@dataclass(frozen=True)
class World:
    """Chances: of kinds, (T,); that a model is right, (T, K); of what it says, (T, K, levels)."""

    kind: np.ndarray
    right: np.ndarray
    says: np.ndarray
    told: np.ndarray = field(init=False)  # all that may be said, (S, K)
    each: np.ndarray = field(init=False)  # how likely, of a kind and model, (S, T, K)
    chance: np.ndarray = field(init=False)  # of all of it, (S,)

    @classmethod
    def random(cls, seed: int) -> World:
        """Draw a world."""
        rng = np.random.default_rng(seed)
        good = rng.uniform(0.75, 0.95, size=(KINDS, MODELS))
        right = np.where(KNOWS, good, rng.uniform(0.1, 0.4, size=(KINDS, MODELS)))
        near = right.copy()
        near[1:, 0] = rng.permutation(np.linspace(0.1, 0.7, KINDS - 1))
        says = np.exp(-0.5 * ((np.array(LEVELS) - near[:, :, None]) / rng.uniform(0.05, 0.1)) ** 2)
        return cls(
            rng.dirichlet(np.full(KINDS, 5.0)), right, says / says.sum(axis=2, keepdims=True)
        )

    def __post_init__(self) -> None:
        told = np.array(list(product(range(len(LEVELS)), repeat=MODELS)))  # all that may be said
        each = self.says[:, np.arange(MODELS), told].swapaxes(0, 1)  # (S, T, K)
        object.__setattr__(self, "told", told)
        object.__setattr__(self, "each", each)
        object.__setattr__(self, "chance", (each.prod(axis=2) * self.kind).sum(axis=1))

    def stop(self, called: Standing) -> tuple[np.ndarray, np.ndarray]:
        """Return what the best answer of `called` is worth, and how likely what they say is, (S,) each."""
        weight = self.kind * self.each[:, :, list(called)].prod(axis=2)
        return (weight @ self.right[:, list(called)]).max(axis=1), weight.sum(axis=1)

    def value(self, price: float, ways: dict[Standing, list[int]]) -> tuple[float, float]:
        """Return mean cost and quality of the best policy at a price among ways: who may be asked after whom."""
        found: dict[Standing, tuple[np.ndarray, np.ndarray]] = {}
        for called in sorted(ways, key=len, reverse=True):
            if not called:
                continue
            worth, weight = self.stop(called)
            best, paid, won = worth.copy(), np.zeros_like(worth), worth.copy()
            for m in ways[called]:
                after = tuple(sorted((*called, m)))
                # What they say of m is summed out: rows that differ in m alone are one.
                cost, quality = (self.summed(column, m) for column in found[after])
                cost = cost + weight * COSTS[m]
                better = quality - price * cost > best
                best = np.where(better, quality - price * cost, best)
                paid, won = np.where(better, cost, paid), np.where(better, quality, won)
            found[called] = paid, won
        points = []
        for m in ways[()]:
            cost, quality = (float(self.summed(column, m)[0]) for column in found[(m,)])
            points.append((cost + COSTS[m], quality))
        return max(points, key=lambda point: point[1] - price * point[0])

    def summed(self, column: np.ndarray, model: int) -> np.ndarray:
        """Return a column (S,) summed over what a model may say; it does not depend on models not called."""
        shape = (len(LEVELS),) * MODELS
        return np.broadcast_to(column.reshape(shape).sum(axis=model, keepdims=True), shape).reshape(
            -1
        )

    def draw(self, rows: int, seed: int) -> po.ExitData:
        """Return a cache of rows drawn from the world."""
        rng = np.random.default_rng(seed)
        kind = rng.choice(KINDS, rows, p=self.kind)
        right = rng.random((rows, MODELS)) < self.right[kind]
        says = (rng.random((rows, MODELS, 1)) > self.says[kind].cumsum(axis=2)).sum(axis=2)
        confidence = np.array(LEVELS)[np.minimum(says, len(LEVELS) - 1)]
        confidence = confidence + 1e-4 * rng.random(confidence.shape)  # equal rows would be one
        splits = {"fit": {"correct": right, "confidence": confidence}}
        paid = {"costs": COSTS, "unit": "ms", "cost_kind": "standalone"}
        return po.from_arrays(splits=splits, kind="summary", **paid)

    def true(self, policy: po.RoutingPolicy) -> tuple[float, float]:
        """Return the true mean cost and quality of a policy: each saying is followed by both its arms."""
        confidence = np.array(LEVELS)[self.told]
        outputs = [{"confidence": confidence[:, m]} for m in range(MODELS)]
        cost = quality = 0.0
        shares = [1.0 - policy.share, policy.share] if len(policy.arms) > 1 else [1.0]
        for share, arm in zip(shares, policy.arms, strict=True):
            one = type(policy)((arm,), 0.0, 0, policy.ensemble, policy.unit, policy.kind)
            found = one.decide(outputs)
            weight = self.kind * self.each.prod(axis=2)  # (S, T)
            gained = (weight * self.right[:, found.answerer].T).sum(axis=1)
            cost += share * float(self.chance @ found.cost)
            quality += share * float(gained.sum())
        return cost, quality


def hull(points: list[tuple[float, float]]) -> np.ndarray:
    """Return the upper hull of points (cost, quality), up to the best, ascending."""
    kept: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        while kept and kept[-1][1] >= point[1]:
            break
        else:
            while len(kept) > 1:
                (a, p), (b, q) = kept[-2:]
                if (q - p) * (point[0] - a) > (point[1] - p) * (b - a):
                    break
                kept.pop()
            kept.append(point)
    return np.array(kept)


def frontier(world: World, every: list[dict[Standing, list[int]]]) -> np.ndarray:
    """Return the hull of the best policies of several ways at all prices."""
    found, prices = (
        hull([world.value(price, ways) for ways in every for price in PRICES]),
        set(PRICES),
    )
    while True:  # what lies between two corners shows at the price at which they are alike
        between = set((np.diff(found[:, 1]) / np.diff(found[:, 0])).round(12)) - prices
        if not between:
            return found
        prices |= between
        more = [world.value(price, ways) for ways in every for price in between]
        found = hull([*map(tuple, found.tolist()), *more])


def anyhow() -> dict[Standing, list[int]]:
    """Return the ways of a policy that may ask anyone at any time."""
    sets = [s for n in range(MODELS + 1) for s in combinations(range(MODELS), n)]
    return {s: [m for m in range(MODELS) if m not in s] for s in sets}


def lists() -> list[dict[Standing, list[int]]]:
    """Return the ways of all lists."""
    found = []
    for n in range(1, MODELS + 1):
        for order in permutations(range(MODELS), n):
            ways = {tuple(sorted(order[:i])): [order[i]] for i in range(n)}
            found.append({**ways, tuple(sorted(order)): []})
    return found


def fixed(world: World) -> np.ndarray:
    """Return the hull of lists that ask all their models of all rows."""
    points = []
    for n in range(1, MODELS + 1):
        for called in combinations(range(MODELS), n):
            worth = world.stop(called)[0].sum() / len(LEVELS) ** (MODELS - n)  # each saying once
            points.append((float(COSTS[list(called)].sum()), float(worth)))
    return hull(points)


def at(points: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the quality of a frontier at costs."""
    return np.interp(cost, points[:, 0], points[:, 1])


def run() -> list[dict[str, Any]]:
    """Return a record per world, number of rows and draw."""
    found: list[dict[str, Any]] = []
    seed, worlds, routing = 0, 0, make_method("routing")
    while worlds < WORLDS:
        world = World.random(seed)
        best, static, plain = frontier(world, [anyhow()]), frontier(world, lists()), fixed(world)
        lead = float((at(best, np.array(BUDGETS)) - at(static, np.array(BUDGETS))).mean())
        seed += 1
        if lead < LEAST:
            continue
        worlds += 1
        for rows in ROWS:
            for draw in range(DRAWS):
                data = world.draw(rows, 1000 * seed + draw)
                fits = routing.fit_path(po.Tables(data).get("fit"), BUDGETS)
                true = np.array([world.true(one.policy) for one in fits])
                cost, quality = true.T
                record = {
                    "world": seed - 1, "rows": rows, "draw": draw, "cost": cost.tolist(),
                    "routing": quality.tolist(), "optimum": at(best, cost).tolist(),
                    "list": at(static, cost).tolist(), "fixed": at(plain, cost).tolist(),
                }  # fmt: skip
                if (quality > at(best, cost) + 1e-9).any():
                    raise RuntimeError(f"better than the optimum: {record}")
                found.append(record)
                print(record["world"], rows, draw, f"{share([record]):.1%}", flush=True)
    return found


def share(records: list[dict[str, Any]], beside: str = "list") -> float:
    """Return which share of the optimum's lead over the best list routing has."""
    names = ("routing", beside, "optimum")
    routing, static, best = (np.concatenate([one[name] for one in records]) for name in names)
    return float((routing - static).sum() / (best - static).sum())


def main() -> None:
    records = run()
    OUT.write_text(json.dumps(records))
    lines = []
    for rows in ROWS:
        mine = [one for one in records if one["rows"] == rows]
        line = [f"{rows:,}", str(len({one["world"] for one in mine}))]
        for beside in ("list", "fixed"):
            lead = np.mean([np.subtract(one["optimum"], one[beside]).mean() for one in mine])
            line += [f"{100 * lead:.2f}", f"{100 * share(mine, beside):.1f}"]
        off = np.mean([np.divide(one["cost"], BUDGETS).mean() for one in mine])
        lines.append([*line, f"{off:.3f}"])
    head = ["rows of the fit", "worlds"]
    for beside in ("lists", "fixed lists"):
        head += [f"optimum leads {beside} by", "share of it %"]
    head += ["cost / budget"]
    text = table("Share of the optimum's lead over the best list, under the world", head, lines)
    OUT.with_suffix(".md").write_text(
        "\n".join(["# Routing beside the optimum", "", (__doc__ or "").strip(), "", text])
    )
    print(text)


if __name__ == "__main__":
    main()
