"""The registry: one row per method. CLI, docs table and the shared checks read it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

from policyopt.methods.base import Method
from policyopt.runtime.errors import bad


@dataclass(frozen=True)
class Row:
    """What the registry knows about a method.

    Attributes
    ----------
    name, family, summary, paper, reference : str
    factory : str
        ``module:Class``, imported when used.
    preset : mapping
        Settings that make the class this method; not open to the user.
    defaults : mapping
        Defaults that differ from the class's own.
    trains : bool
        Whether it trains a network per budget, for minutes: ``all`` leaves it out.
    """

    name: str
    family: str
    summary: str
    paper: str
    reference: str
    factory: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = False

    def load(self) -> type[Method]:
        """Import the class."""
        module, name = self.factory.split(":")
        return getattr(import_module(module), name)

    def settings(self) -> dict[str, Any]:
        """Return the settings open to the user, with their defaults."""
        own = {f.name: f.default for f in fields(self.load()) if f.name not in self.preset}
        return {**own, **self.defaults}


_THRESHOLD = "policyopt.methods.threshold:Threshold"

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("max_prob", "confidence", "largest class probability", "Huang et al., MSDNet; Kaya et al., SDN",
            "ICLR 2018, arXiv:1703.09844; ICML 2019, arXiv:1810.07052", _THRESHOLD, {"score": "max_prob"}),
        Row("entropy", "confidence", "entropy of the class probabilities", "Teerapittayanon et al., BranchyNet",
            "ICPR 2016, arXiv:1709.01686; scaled as EENet eq. 6", _THRESHOLD, {"score": "entropy"}),
        Row("margin", "confidence", "largest less second probability", "Park et al., Big/LITTLE deep neural network",
            "CODES+ISSS 2015", _THRESHOLD, {"score": "margin"}),
        Row("patience", "consistency", "exits in a row that agree", "Zhou et al., PABEE",
            "NeurIPS 2020, arXiv:2006.04152", "policyopt.methods.patience:Patience"),
        Row("vote", "consistency", "share of exits so far that agree", "Ilhan et al., EENet",
            "WACV 2024, arXiv:2301.07099, eq. 7", _THRESHOLD, {"score": "vote"},
            # Few distinct scores, and none that says anything at exit 0: quotas cannot divide them.
            {"thresholds": "joint"}),
        Row("optimal_stopping", "learned", "estimated advantage of stopping over continuing",
            "this project; after Bolukbasi et al.", "ICML 2017, arXiv:1702.07811",
            "policyopt.methods.optimal_stopping:OptimalStopping"),
        Row("eenet", "learned", "learned utility scores and exit distribution, by its paper", "Ilhan et al., EENet",
            "WACV 2024, arXiv:2301.07099", "policyopt.methods.eenet:Eenet", trains=True),
        Row("eenet_released", "learned", "the formulas of EENet's released code, defects mended",
            "Ilhan et al., EENet", "git-disl/EENet at a5e80c8", "policyopt.methods.eenet_released:EenetReleased",
            trains=True),
        Row("auto", "choice", "the best of several at each budget, the simpler one where in doubt",
            "this project; one-standard-error rule of Breiman et al., CART", "1984, section 3.4.3",
            "policyopt.methods.auto:Auto"),
        Row("always", "null", "always the best single exit", "null baseline", "-",
            "policyopt.methods.always:Always"),
        Row("random", "null", "exits drawn by a coin", "null baseline", "-",
            "policyopt.methods.random:Random"),
    )
}  # fmt: skip


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
    Threshold(score='max_prob', thresholds='joint', mix=False, answer='plain', calibrator='platt')
    """
    name, _, inline = spec.partition(":")
    if name not in ROWS:
        close = difflib.get_close_matches(name.lower(), ROWS, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else "`policyopt methods` lists them."
        raise bad("method", f"one of {', '.join(ROWS)}", name, hint)
    row = ROWS[name]
    wanted = {**row.defaults, **(settings or {})}
    for item in filter(None, inline.split("+")):
        key, equals, value = item.partition("=")
        if not equals:
            raise bad(f"settings of {name}", "key=value", item, "E.g. max_prob:thresholds=joint.")
        if key in (settings or {}):
            raise bad(
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
            raise bad(
                f"setting of {name}", f"one of: {known}", key, "`policyopt methods` lists them."
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
        raise bad(
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
        raise bad(
            "setting", "numbers such as 0.9,0.8", text.strip(), "E.g. --set thresholds=0.9,0.8."
        ) from error
