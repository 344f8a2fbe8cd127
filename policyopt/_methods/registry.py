"""The registry: the catalogue, and methods of your own. CLI, docs and the shared checks read it."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from policyopt._methods.catalogue import METHODS, MethodSpec, needs_of
from policyopt.runtime._errors import input_error
from policyopt.runtime._scores import ScoreRule, check_name, load_plugins, when_registered

if TYPE_CHECKING:
    from policyopt._methods.base import Method

ROWS: dict[str, MethodSpec] = {row.name: row for row in METHODS}
FAMILIES = list(dict.fromkeys(row.family for row in METHODS))
#: The family of methods that are not ours.
OWN_FAMILY = "own"
#: A comma between methods: names never begin like a number, thresholds always do.
_COMMA = re.compile(r",(?!\s*[-+.0-9])")


def register_method(
    name: str | type[Method] | None = None,
    *,
    summary: str = "it says so",
    wins: str = "",
    paper: str = "your own",
    year: int = 0,
    reference: str = "-",
    trains: bool = False,
    online: bool = True,
) -> Any:
    """Make a method of your own known by its name: to fits, comparisons, `auto` and the command line.

    A decorator, with or without arguments. An installed package registers by an entry point of the group
    ``policyopt.methods``. A static score needs none: `register_score` makes it a method, too.

    Parameters
    ----------
    name : str, optional
        Default: the class's ``label``.
    summary, wins, paper, year, reference : str, int
        What `policyopt methods` says: "leaves where <summary>", when to choose it, where it is from.
    trains : bool
        It trains for long: ``--methods all`` leaves it out.
    online : bool
        One number orders its policies from cheap to dear, so that a controller or bandit can move it.

    Returns
    -------
    the class, or a decorator

    Raises
    ------
    InputError
        No such class, a name that is no name or is taken.

    Examples
    --------
    >>> import policyopt as po
    >>> from dataclasses import dataclass
    >>> @po.register_method(summary="exit 0 is sure")  # doctest: +SKIP
    ... @dataclass(frozen=True)
    ... class Sure(po.LearnedScore):
    ...     label = "sure"
    ...
    ...     def learn(self, seen, seed):
    ...         return po.make_score("max_prob")
    """

    def enter(method: type[Method]) -> type[Method]:
        from policyopt._methods.base import Method

        step = "Derive a frozen dataclass from policyopt.LearnedScore or policyopt.Method."
        if (
            not isinstance(method, type)
            or not issubclass(method, Method)
            or inspect.isabstract(method)
        ):
            raise input_error(
                "method", "a class of methods", getattr(method, "__name__", method), step
            )
        label: Any = name if isinstance(name, str) else getattr(method, "label", None)
        if "__dataclass_fields__" not in vars(method):
            raise input_error(
                f"method {method.__name__}", "a frozen dataclass", "another class", step
            )
        lacking = [
            f.name for f in fields(method) if f.default is MISSING and f.default_factory is MISSING
        ]  # type: ignore[arg-type]
        if lacking:
            got = f"none for {', '.join(lacking)}"
            raise input_error(
                f"method {method.__name__}", "a class whose settings have defaults", got, step
            )
        made = method()
        spec = MethodSpec(
            label, OWN_FAMILY, summary, paper, year, reference, method, wins, trains=trains, online=online,
            needs=needs_of(made.needs(), made.labelled()),
        )  # fmt: skip
        _enter(spec, method)
        return method

    return enter(name) if isinstance(name, type) else enter


def _enter(spec: MethodSpec, owner: type) -> None:
    """Enter a row; a class that was defined again replaces itself."""
    _owners[check_name(spec.name, owner, _owners.get(spec.name), "method")] = owner
    ROWS[spec.name] = spec
    if OWN_FAMILY not in FAMILIES:
        FAMILIES.append(OWN_FAMILY)


def _static(rule: type[ScoreRule]) -> None:
    """Make a score without parameters a method: thresholds on it."""
    given = {f.name for f in fields(rule) if f.default is MISSING}  # type: ignore[arg-type]
    if not given <= {"classes"} or not isinstance(rule.needs, frozenset):
        there = _owners.get(rule.name)
        if there is not None and there.__qualname__ == rule.__qualname__:  # it was static before
            del _owners[rule.name], ROWS[rule.name]
    else:
        said = (rule.__doc__ or "").strip().split("\n")[0].rstrip(".") or f"{rule.name} is high"
        spec = MethodSpec(
            rule.name, OWN_FAMILY, said, "your own", 0, "-", "threshold:Threshold",
            preset={"score": rule.name}, needs=needs_of(rule.needs, labelled=False),
        )  # fmt: skip
        _enter(spec, rule)


def load_installed() -> None:
    """Import what installed packages register, so that it is listed."""
    load_plugins("policyopt.scores")
    load_plugins("policyopt.methods")


#: Who has which name; `object`: it is ours.
_owners: dict[str, type] = dict.fromkeys(ROWS, object)
when_registered(_static)


def method_list(methods: str | Sequence[str], argument: str = "methods") -> list[str]:
    """Return names of methods, given as several or as one text with commas; ``all`` stands alone.

    Examples
    --------
    >>> method_list("max_prob:thresholds=0.9,0.8, margin")
    ['max_prob:thresholds=0.9,0.8', 'margin']
    """
    given = _COMMA.split(methods) if isinstance(methods, str) else methods
    given = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in given):
        step = "E.g. ['max_prob', 'margin']; methods that are built go into a mapping of label to method."
        raise input_error(argument, "a name or several", methods, step)
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise input_error(
            argument, "at least one method", "none", "`policyopt methods` lists them."
        )
    if "all" in names and len(names) > 1:
        raise input_error(
            argument, "names, or all alone", ", ".join(names), "Leave the others out."
        )
    return names


def make_method(spec: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its name and settings.

    Parameters
    ----------
    spec : str
        A name, or a name with settings: ``max_prob:thresholds=joint+mix=true``.
    settings : mapping, optional
        More settings; values may be text as on the command line.

    Returns
    -------
    Method

    Raises
    ------
    InputError
        Unknown method or setting.

    Examples
    --------
    >>> make_method("max_prob:thresholds=joint")
    Threshold(score='max_prob', thresholds='joint', mix=False, answer='plain', shared_map='platt')
    """
    if not isinstance(spec, str):
        raise input_error(
            "method", "a name such as max_prob", spec, "`policyopt methods` lists them."
        )
    name, _, inline = spec.partition(":")
    if name not in ROWS:
        load_installed()
    if name not in ROWS:
        close = difflib.get_close_matches(name.lower(), ROWS, n=1)
        hint = (
            f"Did you mean '{close[0]}'?"
            if close
            else (
                "`policyopt methods` lists them; one of your own is registered first (--plugin FILE_OR_MODULE)."
            )
        )
        raise input_error("method", f"one of {', '.join(ROWS)}", name, hint)
    row = ROWS[name]
    wanted = {**row.defaults, **(settings or {})}
    for item in filter(None, inline.split("+")):
        key, equals, value = item.partition("=")
        if not equals:
            raise input_error(
                f"settings of {name}", "key=value", item, "E.g. max_prob:thresholds=joint."
            )
        if key in (settings or {}):
            raise input_error(
                f"{key} of {name}",
                "set once",
                f"'{spec}' and a setting besides",
                "Drop one of the two.",
            )
        wanted[key] = value
    allowed = row.settings()
    for key in wanted:
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise input_error(
                f"setting of {name}", f"one of: {known}", key, f"See `policyopt methods {name}`."
            )
    return row.load()(**row.preset, **{key: parse_value(value) for key, value in wanted.items()})


def apply_settings(specs: list[str], settings: Mapping[str, Any]) -> dict[str, Method]:
    """Build several methods; each takes those settings that it has, and every setting must find one.

    Examples
    --------
    >>> apply_settings(["max_prob", "patience"], {"thresholds": "joint"})["max_prob"].thresholds
    'joint'
    """
    chosen, used = {}, set()
    for spec in specs:
        name, _, inline = spec.partition(":")
        row = ROWS.get(name)
        mine = {k: v for k, v in settings.items() if row and k in row.settings()}
        used |= mine.keys()
        # What stands in the spec itself is meant for this method: it goes before the common setting.
        own = {item.partition("=")[0] for item in inline.split("+")}
        chosen[spec] = make_method(spec, {k: v for k, v in mine.items() if k not in own})
    for key in settings.keys() - used:
        raise input_error(
            "setting", f"one that {' or '.join(specs)} has", key, "`policyopt methods` lists them."
        )
    return chosen


def parse_value(value: Any) -> Any:
    """Turn a setting's text into a number, a truth value, a tuple of numbers, or leave it a text.

    Examples
    --------
    >>> parse_value("0.9,0.8"), parse_value("true"), parse_value("3"), parse_value("joint")
    ((0.9, 0.8), True, 3, 'joint')
    """
    if hasattr(value, "tolist"):  # numpy arrays and numbers
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(parse_value(v) for v in value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if "," in text:
        return tuple(_number(part) for part in text.split(",") if part.strip())
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise input_error(
            "setting", "numbers such as 0.9,0.8", text.strip(), "E.g. --set thresholds=0.9,0.8."
        ) from error
