"""From the keys of a file to groups of arrays, one per split: names only, no values, no axes."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyopt.cache.data import CONTEXT, KINDS, POOL
from policyopt.cache.importers.raw import Array, Raw, parse_key, split_name
from policyopt.runtime.errors import input_error

#: Which key to take for a kind, best first; ``outputs`` fits both.
_LEADS = {
    "logits": ("logits", "outputs", "probabilities"),
    "probabilities": ("probabilities", "outputs", "logits"),
    "record": ("confidence", "conf_logprob"),
    None: ("logits", "probabilities", "outputs", "confidence", "conf_logprob"),
}
_ALL_LEADS = _LEADS[None]
_RECORD = ("prediction", "correct", "entropy", "top_prob")
_WANTED = (
    "logits or probs (K, N, C), or conf and pred (K, N); labels (N,); costs (K,); with a prefix "
    "such as val_ and test_ where the file holds several splits"
)


@dataclass
class Group:
    """The arrays of one split as they stand in the file.

    Parameters
    ----------
    split : str
        Name of the split, or ``pool``.
    source : str
        The file, for notes and errors.
    lead : str
        Role of the array that shows N and K: ``logits``, ``outputs``, ``confidence``, ...
    arrays : dict of str to ndarray
        By role: the lead, for records ``prediction`` and the like, ``context``, and
        ``features_0``, ... (or ``features``, all exits in one array).
    kind : str or None
        None where it has to be detected from the values.
    axes : str or None
        Order where the file or the user fixes it.
    labels : ndarray, optional
    costs : dict of str to ndarray
        ``"costs"`` (the nameless one) and named ones, (K,) or per sample.
    rows : ndarray of str, optional
        Split of each row.
    """

    split: str
    source: str
    lead: str
    arrays: dict[str, Array]
    kind: str | None
    axes: str | None = None
    labels: Array | None = None
    costs: dict[str, Array] = field(default_factory=dict)
    rows: Array | None = None


def group(raw: Raw, split: str | None, kind: str | None, axes: str | None) -> list[Group]:
    """Divide a file into one group per split.

    Parameters
    ----------
    raw : Raw
        The file; notes are added to it.
    split : str, optional
        What the user calls its rows (``SPLIT=PATH``).
    kind, axes : str, optional
        What the user declares; else what the file does.

    Returns
    -------
    list of Group

    Raises
    ------
    InputError
        No outputs and no confidences, or rows of a pool beside named splits.

    Examples
    --------
    >>> import numpy as np
    >>> raw = Raw("a.npz", {"val_logits": np.zeros((2, 5, 3)), "val_labels": np.zeros(5)})
    >>> [(g.split, g.lead) for g in group(raw, None, None, None)]
    [('fit', 'logits')]
    """
    kind = kind or raw.options.get("kind")
    if kind is not None and kind not in KINDS:
        raise input_error("kind", f"one of {', '.join(KINDS)}", kind, "Choose one (--kind).")
    axes = raw.axes or axes or raw.options.get("axes")
    by_prefix = _by_prefix(raw)
    leads = {p: lead for p, found in by_prefix.items() if (lead := _lead(raw, p, found, kind))}
    if not leads:
        keys = ", ".join([*raw.arrays, *raw.metadata][:12]) or "none"
        if kind == "record":
            allowed, step = "conf and pred (K, N), as kind record says", "Rename, or drop --kind."
        else:
            allowed, step = _WANTED, "Rename them."
        raise input_error(f"{raw.name}: keys", allowed, keys, step)
    shared = by_prefix.get(None, {})
    named = [p for p in leads if p is not None]
    if named and None in leads:
        raise input_error(
            f"{raw.name}: keys",
            "with a prefix on all outputs, or on none",
            f"{shared[leads[None]][0]} beside {', '.join(f'{p}_' for p in named)}",
            "Rename them, e.g. val_logits and test_logits.",
        )
    if named and split is not None:
        raise input_error(
            "SRC",
            f"PATH alone where the file names its splits ({', '.join(named)})",
            f"{split}={raw.name}",
            f"Leave {split}= out.",
        )
    splits = _split_names(raw, named) if named else {None: split_name(split or POOL)}
    groups = []
    for prefix, name in splits.items():
        found, lead = by_prefix[prefix], leads[prefix]
        roles = [lead, *(_RECORD if lead in _LEADS["record"] else ())]
        roles += [role for role in found if role.startswith("features") or role == CONTEXT]
        costs = {base: array for base, array in _costs(shared).items() if prefix is None}
        costs |= {b: a for b, a in _costs(shared).items() if a.ndim == 1} | _costs(found)
        labels = found.get("labels")
        if labels is None and prefix is not None and name not in ("fit", "calibrate"):
            labels = shared.get("labels")
        groups.append(
            Group(
                name,
                raw.name,
                lead,
                {role: found[role][1] for role in roles if role in found},
                lead if lead in KINDS else (kind if lead == "outputs" else "record"),
                axes,
                None if labels is None else labels[1],
                costs,
                raw.split if prefix is None else None,
            )
        )
        if kind is not None and lead in ("logits", "probabilities"):
            groups[-1].kind = kind  # what the user declares goes before the key's name
    return groups


def _by_prefix(raw: Raw) -> dict[str | None, dict[str, tuple[str, Array]]]:
    """Return (key, array) by prefix and role; named costs stand under their own name."""
    found: dict[str | None, dict[str, tuple[str, Array]]] = {}
    for key, array in raw.arrays.items():
        known = parse_key(key)
        if known is None:
            raw.notes.append(f"{raw.name}: key {key!r} ignored (not known)")
            continue
        prefix, role, base = known
        slot = f"cost:{base}" if role == "cost" else role
        mine = found.setdefault(prefix, {})
        if slot in mine:
            raise input_error(
                f"{raw.name}: keys",
                f"with one key for {role}",
                f"{mine[slot][0]} and {key}",
                "Remove one.",
            )
        mine[slot] = (key, array)
    return found


def _lead(
    raw: Raw, prefix: str | None, found: dict[str, tuple[str, Array]], kind: str | None
) -> str | None:
    at = [role for role in _ALL_LEADS if role in found]
    lead = next((role for role in _LEADS[kind] if role in found), None)
    for role in at:
        if lead is not None and role != lead:
            raw.notes.append(f"{raw.name}: {found[role][0]} ignored beside {found[lead][0]}")
    if lead is None and prefix is not None:
        raw.notes.append(f"{raw.name}: keys {prefix}_* ignored (no outputs among them)")
    return lead


def _costs(found: dict[str, tuple[str, Array]]) -> dict[str, Array]:
    return {
        slot.removeprefix("cost:"): array
        for slot, (_, array) in found.items()
        if slot == "costs" or slot.startswith("cost:")
    }


def _split_names(raw: Raw, prefixes: list[str]) -> dict[str | None, str]:
    """Return the split of each prefix; training rows serve as `fit` where nothing else does."""
    names: dict[str | None, str] = {}
    for prefix in prefixes:
        names[prefix] = split_name(prefix)
    if "train" in prefixes and "fit" not in names.values():
        names["train"] = "fit"
        raw.notes.append(
            f"{raw.name}: train_ taken as split fit; if the model was trained on these rows its "
            "confidences are too high there, so held-out rows (val_) are better"
        )
    for prefix, name in names.items():
        if name != prefix and prefix != "train":
            raw.notes.append(f"{raw.name}: {prefix}_ taken as split {name}")
    if len(set(names.values())) < len(names):
        raise input_error(
            f"{raw.name}: keys",
            "with one prefix per split",
            f"{sorted(prefixes)}",
            "Rename or remove one: val and fit mean the same.",
        )
    return names
