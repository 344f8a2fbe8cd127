"""`Shown`: results that show themselves: as a frame, a plot, in a notebook, in a line."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np

from ._errors import MissingExtraError
from ._text import printable

_LINE, _FEW = 500, 60  # letters of all, and of one value


class Shown:
    """What every result can: a frame, a plot, a table in a notebook, and a line that says what it is."""

    __slots__ = ()

    def to_frame(self, of: str | None = None) -> Any:
        """Return its records as a pandas frame, a row each, by columns that docs/frames.md explains.

        Parameters
        ----------
        of : str, optional
            Which records, where there are several lists of them; default the first that is named there.

        Raises
        ------
        MissingExtraError
            Without pandas (extra ``fit``), or where the runtime was copied alone.
        """
        return _views().frame(self, of)

    def plot(self, ax: Any = None, **look: Any) -> Any:
        """Draw it with matplotlib; return the axes.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default new ones, of ``matplotlib.pyplot``.
        **look
            Properties of the axes, e.g. ``title="Curve"``, ``xlim=(0, 5)``.
        """
        return _views().plot(self, ax, **look)

    def _repr_html_(self) -> str | None:
        """Return a heading and a small table for notebooks; None where the runtime was copied alone."""
        try:
            return _views().html(self)
        except MissingExtraError:
            return None

    def __repr__(self) -> str:
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if f.repr]  # type: ignore[arg-type]
        told = ", ".join(f"{name}={_brief(value)}" for name, value in given if value is not None)
        return printable(f"{type(self).__name__}({told})", _LINE)


def _brief(value: Any) -> str:
    """Return numbers and texts, and of what holds many how many."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (str, int, np.generic)):
        return printable(repr(value), _FEW)
    if isinstance(value, np.ndarray):
        return f"<{' x '.join(map(str, value.shape))}>"
    if hasattr(value, "__len__") and not isinstance(value, Shown):
        return f"<{len(value)}>"
    return repr(value) if isinstance(value, Shown) else f"<{type(value).__name__}>"


def _views() -> Any:
    """Return the whole package's views, which the runtime does without."""
    found: Exception | None = None
    if __package__ == "policyopt.runtime":
        try:
            return import_module("policyopt._views")
        except ModuleNotFoundError as error:
            found = error
    raise MissingExtraError(
        "Frames, plots and tables of notebooks need the whole package beside the runtime. "
        "Install it with: pip install 'policyopt[fit]'."
    ) from found
