"""The picture of a simulation: regret, the arms played, and the cost, over the rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from policyopt.report.figures import COLOURS

if TYPE_CHECKING:
    from policyopt.online.simulate import Simulation

_MOST_ARMS_PANELS = 6


def simulation_figure(found: Simulation, title: str = "") -> Any:
    """Draw what came of a simulation, as the figures of the AdaEE paper and below them the cost.

    Above: cumulative pseudo-regret to the best fixed arm, mean and 95 % band over repetitions, and
    the mean cost so far (left) and lately against the budget. Below: per policy, the share of the
    requests played on each arm over time, dark the most. Dotted lines: changes of the stream.

    Parameters
    ----------
    found : Simulation
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    shown = [name for name, t in found.tallies.items() if t.arms.shape[1] > 1]
    shown = shown[:_MOST_ARMS_PANELS]
    lines = -(-len(shown) // 3)
    figure = Figure(figsize=(12, 4.2 + 2.3 * lines), layout="constrained")
    grid = figure.add_gridspec(1 + lines, 6, height_ratios=[1.7, *[1.0] * lines])
    regret, cost = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    for i, (name, tally) in enumerate(found.tallies.items()):
        again, colour = divmod(i, len(COLOURS))
        look = {"color": COLOURS[colour], "ls": ("-", "--", ":", "-.")[again % 4], "lw": 1.6}
        course = tally.course("regret")
        mean = course.mean(axis=1)
        half = 1.96 * course.std(axis=1) / course.shape[1] ** 0.5
        regret.plot(tally.rounds, mean, label=name, **look)
        regret.fill_between(
            tally.rounds, mean - half, mean + half, color=look["color"], alpha=0.15, lw=0
        )
        paid = tally.course("cost").mean(axis=1)
        back = max(len(tally.rounds) // 12, 1)
        spent = np.concatenate([np.zeros(back), paid[:-back]]) if back < len(paid) else 0 * paid
        since = np.concatenate([np.zeros(back), tally.rounds[:-back]])[: len(paid)]
        cost.plot(tally.rounds, (paid - spent) / np.maximum(tally.rounds - since, 1), **look)
    if found.budget is not None:
        cost.axhline(found.budget, color="0.2", lw=1, ls=(0, (6, 3)))
        cost.annotate(
            "budget", (0.99, found.budget), xycoords=("axes fraction", "data"), ha="right",
            va="bottom", fontsize=8, color="0.2",
        )  # fmt: skip
    regret.set_title("pseudo-regret to the best fixed arm", loc="left", fontsize=10)
    cost.set_title(f"mean cost of the latest requests [{found.unit}]", loc="left", fontsize=10)
    regret.legend(frameon=False, fontsize=8)
    plots = [regret, cost]
    labels = [f"{x:.3g}" for x in found.labels]
    for i, name in enumerate(shown):
        tally = found.tallies[name]
        axes = figure.add_subplot(grid[1 + i // 3, 2 * (i % 3) : 2 * (i % 3) + 2])
        shares = tally.shares().T
        edges = np.concatenate([[0], tally.rounds])
        axes.pcolormesh(
            edges,
            np.arange(len(shares) + 1) - 0.5,
            shares,
            cmap="Blues",
            vmin=0,
            vmax=max(float(shares.max()), 1e-9),
        )
        axes.set_title(f"arm played: {name.partition(':')[0]}", loc="left", fontsize=9)
        if len(shares) == len(labels) <= 12:
            axes.set_yticks(range(len(labels)), labels, fontsize=7)
        else:
            axes.set_yticks([0, len(shares) - 1], ["cheap", "dear"], fontsize=7)
        plots.append(axes)
    for axes in plots:
        for change in found.schedule.changes:
            axes.axvline(change, color="0.4", lw=0.8, ls=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("request", fontsize=8)
    for axes in plots[:2]:
        axes.grid(True, color="0.92")
    if title:
        figure.suptitle(title, fontsize=11, ha="left", x=0.01)
    return figure
