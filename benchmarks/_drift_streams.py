"""Streams to test the drift watch on: real rows in random order, with and without a change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt._replay import Traced
from policyopt.runtime._drift import Reference
from policyopt.runtime._typing import Floats, Ints


@dataclass(frozen=True)
class Streams:
    """R streams of T requests: cells and pools of the watch, and the bare score at exit 0."""

    names: tuple[str, ...]
    pools: Ints  # (R, J, M)
    cells: Ints  # (R, T, J)
    reference: Floats  # (R, n)
    scores: Floats  # (R, T)


def streams(
    clean: list[Traced],
    shifted: Traced | None,
    count: int,
    rows: int,
    before: int,
    after: int,
    seed: int,
) -> Streams:
    """Return streams of rows drawn without replacement.

    Parameters
    ----------
    clean : list of Traced
        The last is of the images that `shifted` distorts, row by row.
    shifted : Traced or None
    count : int
    rows : int
        Of the reference.
    before, after : int
        Requests before and after the change.
    seed : int
    """
    rng = np.random.default_rng(seed)
    every = [_parts(t) for t in clean]
    scores, first, position = (np.concatenate(column) for column in zip(*every, strict=True))
    offset = len(scores) - len(clean[-1].exit)
    path, classes = clean[-1].active_exits, int(first.max()) + 1
    pools, cells, usual, plain = [], [], [], []
    names: tuple[str, ...] = ()
    for _ in range(count):
        order = rng.permutation(len(scores))
        kept, rest = order[:rows], order[rows:]
        reference = Reference.of(
            scores[kept], first[kept], position[kept], classes, path, False, 32
        )
        names = reference.names
        here = rest[:before]
        asked = [(scores[here], first[here], position[here])]
        if shifted is not None:
            images = rest[before:]
            images = images[images >= offset][:after] - offset
            score, klass, place = _parts(shifted)
            asked.append((score[images], klass[images], place[images]))
        read = [reference.read(*part)[0] for part in asked]
        cells.append(np.concatenate(read))
        pool = np.zeros((len(names), 32), dtype=np.int64)
        pool[:, : reference.pool.shape[1]] = reference.pool
        pools.append(pool)
        usual.append(scores[kept, 0])
        plain.append(np.concatenate([part[0][:, 0] for part in asked]))
    return Streams(names, np.stack(pools), np.stack(cells), np.stack(usual), np.stack(plain))


def _parts(seen: Traced) -> tuple[Floats, Ints, Ints]:
    return seen.scores, seen.predictions[:, 0].astype(np.int64), seen.position
