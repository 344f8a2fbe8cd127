"""The picture of a simulation: regret, the arms played, and the cost, over the rounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from policyopt._online.metrics import interval
from policyopt._online.simulate import Simulation
from policyopt._report.figures import COLOURS, LINES, add_legend, new_figure, tidy
from policyopt.runtime._bandits import BANDITS
from policyopt.runtime._text import picture_text

_PANELS, _ABREAST = 16, 4  # arm panels in all, and side by side
_WINDOWS = 12  # of the latest requests, in the whole course


def simulation_figure(found: Simulation, title: str = "") -> Any:
    """Draw what came of a simulation, as the figures of the AdaEE paper and below them the cost.

    Above: cumulative pseudo-regret to the best fixed arm, mean and 95 % band over repetitions, and
    the mean cost of the latest requests against the budget. Below: per policy, the share of the
    requests played on each arm over time, dark the most. Dotted lines: changes of the stream.
    """
    several = [name for name, t in found.tallies.items() if t.arms.shape[1] > 1]
    shown = several[:_PANELS]
    lines = [shown[i : i + _ABREAST] for i in range(0, len(shown), _ABREAST)]
    names = -(-(len(found.tallies) + 1) // 5)  # lines of the legend
    figure = new_figure(12, 3.8 + 2.2 * len(lines) + 0.25 * names)
    grid = figure.add_gridspec(1 + len(lines), 1, height_ratios=[1.8, *[1.0] * len(lines)])
    regret, cost = (figure.add_subplot(grid[0].subgridspec(1, 2)[0, j]) for j in (0, 1))
    _draw_courses(found, regret, cost)
    add_legend(figure, side="upper center")  # above all panels: hides no curve, is read first
    plots = [regret, cost]
    for i, line in enumerate(lines, 1):
        # A line that is not full is stretched, unless it follows a full one.
        parts = grid[i].subgridspec(1, _ABREAST if len(lines) > 1 else len(line))
        for j, name in enumerate(line):
            plots.append(figure.add_subplot(parts[0, j]))
            _draw_arms(found, name, plots[-1])
    for axes in plots:
        for change in found.schedule.changes:
            axes.axvline(change, color="0.4", lw=0.8, ls=":")
        tidy(axes, grid="both" if axes in (regret, cost) else "", labelsize=8)
        axes.set_xlabel("request", fontsize=8)
    if len(shown) < len(several):
        title = f"{title} (arms of {len(shown)} of {len(several)} policies)".strip()
    if title:
        figure.suptitle(picture_text(title), fontsize=11, ha="left", x=0.01)
    return figure


def _draw_courses(found: Simulation, regret: Any, cost: Any) -> None:
    """Draw regret and cost of every policy over the rounds."""
    rounds = next(iter(found.tallies.values())).rounds
    back = max(len(rounds) // _WINDOWS, 1)
    for i, (name, tally) in enumerate(found.tallies.items()):
        again, place = divmod(i, len(COLOURS))
        look: dict[str, Any] = {"color": COLOURS[place], "ls": LINES[again % 4], "lw": 1.6}
        mean, half = interval(tally.course("regret"))
        regret.plot(rounds, mean, label=picture_text(name), **look)
        regret.fill_between(rounds, mean - half, mean + half, color=look["color"], alpha=0.15, lw=0)
        paid = np.concatenate([[0.0], tally.course("cost").mean(axis=1)])
        at = np.concatenate([[0], rounds])
        since = np.maximum(np.arange(len(rounds)) + 1 - back, 0)
        cost.plot(rounds, (paid[1:] - paid[since]) / (rounds - at[since]), **look)
    if found.budget is not None:
        cost.axhline(found.budget, color="0.2", lw=1, ls=(0, (6, 3)), label="budget")
    latest = f"{round(found.schedule.rounds / len(rounds) * back):,}"
    regret.set_title("pseudo-regret to the best fixed arm", loc="left", fontsize=10)
    told = f"mean cost of the latest {latest} requests [{picture_text(found.unit)}]"
    cost.set_title(told, loc="left", fontsize=10)


def _draw_arms(found: Simulation, name: str, axes: Any) -> None:
    """Draw the share of each arm of a policy over the rounds."""
    tally = found.tallies[name]
    shares = tally.shares().T
    edges = np.concatenate([[0], tally.rounds])
    most = max(float(shares.max()), 1e-9)
    places = np.arange(len(shares) + 1) - 0.5
    axes.pcolormesh(edges, places, shares, cmap="Blues", vmin=0, vmax=most)
    kind, _, settings = name.partition(":")
    settings = settings.replace("+", ", ")
    title = f"arm played: {picture_text(kind)}"
    title += f"\n{picture_text(settings)}" if settings else ""
    axes.set_title(title, loc="left", fontsize=9 if len(settings) < 40 else 7)
    if kind in BANDITS:
        of = "threshold" if found.arms_unit == "threshold" else f"cost [{picture_text(found.unit)}]"
        every = max(-(-len(shares) // 8), 1)  # room for so many
        axes.set_yticks(range(0, len(shares), every), [f"{x:.3g}" for x in found.labels[::every]])
    elif kind == "controller":
        of = "level"
        axes.set_yticks([0, len(shares) - 1], ["cheap", "dear"])
    else:
        of = "split at exit" if kind == "splitee" else "exit"
        axes.set_yticks(range(len(shares)), [str(k) for k in range(len(shares))])
    axes.set_ylabel(of, fontsize=8)
