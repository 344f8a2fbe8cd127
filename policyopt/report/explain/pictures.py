"""All pictures that an explanation allows, by file name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from policyopt.report.explain.change_figure import changes_figure
from policyopt.report.explain.class_figures import classes_figure, per_class_figure
from policyopt.report.explain.exit_figures import exits_figure, scores_figure
from policyopt.report.explain.explanation import Explanation
from policyopt.report.figures import save_figure
from policyopt.runtime.experts import policy_of


def figures(explanation: Explanation, policy: Any, title: str = "") -> dict[str, Any]:
    """Draw what the rows allow.

    Parameters
    ----------
    explanation : Explanation
    policy : Policy, or a fit that holds one
        The one explained.
    title : str

    Returns
    -------
    dict of str to matplotlib.figure.Figure
        ``exits.png`` and ``scores.png``; ``classes.png`` and ``per_class.png`` with labels;
        ``changes.png`` with a reference.
    """
    policy = policy_of(policy, single=True)
    out = {
        "exits.png": exits_figure(explanation, title),
        "scores.png": scores_figure(explanation, policy, title),
    }
    if explanation.record["classes"] is not None:
        out["classes.png"] = classes_figure(explanation, policy, title)
        out["per_class.png"] = per_class_figure(explanation, title)
    if explanation.record["changes"] is not None:
        name = explanation.record["reference"]["method"] or "the reference"
        against = f"against {name}"
        out["changes.png"] = changes_figure(
            explanation, f"{title}, {against}" if title else against
        )
    return out


def write_figures(
    explanation: Explanation, policy: Any, out: str | os.PathLike[str], title: str = ""
) -> list[Path]:
    """Write the pictures into a directory; return their paths."""
    paths = []
    for name, figure in figures(explanation, policy, title).items():
        save_figure(figure, Path(out) / name)
        paths.append(Path(out) / name)
    return paths
