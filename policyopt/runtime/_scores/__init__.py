"""Score rules: they decide at run time, so they live here and need numpy only; yours are registered."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from .._errors import InputError, input_error
from .._parameters import make
from .._text import printable
from .base import COLUMNS, ScoreRule, State, score_table
from .confidence import (
    ClassOffset,
    Constant,
    Energy,
    Entropy,
    Margin,
    MaxLogit,
    MaxProb,
    Random,
    Window,
)
from .consistency import BEEM, DDA, Agreement, Patience, Similarity, Vote
from .eenet import EENet, EENetReleased
from .history import Advantage, Halting, Logistic, Network
from .prototypes import DE3BERT, E2CM, TrustScore

OWN: tuple[type[ScoreRule], ...] = (
    Advantage, Agreement, BEEM, ClassOffset, Constant, DDA, DE3BERT, E2CM, EENet, EENetReleased,
    Energy, Entropy, Halting, Logistic, Margin, MaxLogit, MaxProb, Network, Patience, Random, Similarity, TrustScore,
    Vote, Window,
)  # fmt: skip
#: All that are known by name: ours, and those that were registered.
RULES: dict[str, type[ScoreRule]] = {rule.name: rule for rule in OWN}
_Class = TypeVar("_Class", bound=type[ScoreRule])
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
#: Words that stand for several methods, or none.
_RESERVED = {"all", "none", "online"}
#: Groups of entry points that were loaded, and what of them could not be.
_loaded: dict[str, list[str]] = {}
_listeners: list[Callable[[type[ScoreRule]], None]] = []


def register_score(rule: _Class) -> _Class:
    """Make a score of your own known by its name: to fits, files, exports and the command line.

    A decorator. Whoever loads a policy that uses it must have registered it before: a file never
    imports code. An installed package registers by an entry point of the group ``policyopt.scores``.

    Parameters
    ----------
    rule : subclass of ScoreRule
        With a ``name`` of its own: small letters, digits and underscores.

    Returns
    -------
    the class

    Raises
    ------
    InputError
        No such class, a name that is no name or is taken.

    Examples
    --------
    >>> from policyopt.runtime import ScoreRule, register_score
    >>> @register_score  # doctest: +SKIP
    ... class Squared(ScoreRule):
    ...     name = "squared"
    ...
    ...     def score(self, k, output, state):
    ...         return output.confidence**2, state
    """
    if not isinstance(rule, type) or not issubclass(rule, ScoreRule) or inspect.isabstract(rule):
        step = "Derive it from policyopt.ScoreRule and define score(self, k, output, state)."
        raise input_error("score", "a class of scores", getattr(rule, "__name__", rule), step)
    name = getattr(rule, "name", None)
    if {"__eq__", "__post_init__"} & vars(rule).keys():
        step = "Leave out @dataclass and __post_init__: ScoreRule makes it one, and checks fields by what they declare."
        allowed = "a class that ScoreRule alone makes a dataclass"
        raise input_error("score", allowed, rule.__name__, step)
    check_name(name, rule, RULES.get(str(name)), "score")
    for call in _listeners:  # they may refuse it
        call(rule)
    RULES[rule.name] = rule
    return rule


def when_registered(call: Callable[[type[ScoreRule]], None]) -> None:
    """Have a function called with every score that is not ours: those known already, and later ones."""
    _listeners.append(call)
    for rule in set(RULES.values()) - set(OWN):
        with suppress(InputError):  # its name is that of a method: it stays a score
            call(rule)


def check_name(name: Any, owner: type, there: type | None, what: str) -> str:
    """Return a name that a class may have; one that was defined again (a notebook's cell) may have its own."""
    said = f"name of the {what}"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        field = "name" if what == "score" else "label"
        step = f'E.g. {field} = "my_{what}" in class {owner.__name__}.'
        raise input_error(said, "small letters, digits and underscores", name, step)
    if there and (there.__module__, there.__qualname__) != (owner.__module__, owner.__qualname__):
        taken = f"{name}, which is taken"
        raise input_error(said, "one that no other has", taken, "Choose another name.")
    return name


def _installed(group: str) -> list[str]:
    """Return the folders of packages that name the group, without parsing what all packages say of themselves."""
    found = []
    for place in sys.path:
        # Not the folder that one works in: what lies beside a policy file is not installed.
        if not place or Path(place).resolve() == Path.cwd():
            continue
        for about in Path(place).glob("*-info/entry_points.txt"):
            with suppress(OSError, UnicodeError):
                if group in about.read_text(encoding="utf-8"):
                    found.append(str(about.parent))
    return found


def load_plugins(group: str) -> list[str]:
    """Import what installed packages register, entry points of a group, once; return what could not be."""
    if group in _loaded:
        return _loaded[group]
    _loaded[group] = broken = []
    for folder in _installed(group):
        from importlib.metadata import Distribution  # it takes longer to load than all of this

        for point in Distribution.at(folder).entry_points.select(group=group):
            try:
                point.load()
            except (Exception, SystemExit) as error:  # another's package: whatever it raises
                what = f"'{point.value}' (entry point {point.name} of {group})"
                told = f"{what} cannot be imported: {error}. Mend or remove that package."
                broken.append(printable(told))
                warnings.warn(broken[-1], stacklevel=3)
    return broken


def make_score(name: str, **params: Any) -> ScoreRule:
    """Build a score from its name and parameters.

    Examples
    --------
    >>> make_score("entropy", classes=10)
    Entropy(classes=10)
    """
    return make_rule(name, params)


def make_rule(name: str, params: Mapping[str, Any]) -> ScoreRule:
    """Build a rule from its name and parameters, as an artifact holds them."""
    broken = [] if not isinstance(name, str) or name in RULES else load_plugins("policyopt.scores")
    step = "import the module that has @policyopt.register_score (command line: --plugin FILE_OR_MODULE)."
    step = " ".join([f"If it is your own, register it first: {step}", *broken])
    return make(RULES, "score", name, params, step)


__all__ = [
    "BEEM", "COLUMNS", "DDA", "DE3BERT", "E2CM", "OWN", "RULES", "Advantage", "Agreement", "ClassOffset",
    "Constant", "EENet", "EENetReleased", "Energy", "Entropy", "Halting", "Logistic", "Margin", "MaxLogit",
    "MaxProb", "Network",
    "Patience", "Random", "ScoreRule", "Similarity", "State", "TrustScore", "Vote", "Window", "check_name",
    "load_plugins", "make_rule", "make_score", "register_score", "score_table", "when_registered",
]  # fmt: skip
