"""What a file's keys mean: the spellings of many libraries, exits by number, and roles that the user says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from policyopt._cache.data import GROUP, QUERY
from policyopt.runtime._errors import input_error

#: Keys as this package writes them, and the name each has in `Rows` (or its role).
SYNONYMS = {
    "logits": "logits", "probs": "probabilities", "probabilities": "probabilities", "logit": "logit",
    "values": "values", "variances": "variances", "variance": "variances", "outputs": "outputs",
    "labels": "labels", "label": "labels", "targets": "labels",
    "target": "labels", "conf": "confidence", "confidence": "confidence",
    "conf_logprob": "conf_logprob", "pred": "prediction", "prediction": "prediction",
    "correct": "correct", "quality": "quality", "entropy": "entropy", "top_prob": "top_prob", "features": "features",
    "context": "context", "group": "group", "groups": "group", "group_id": "group", "costs": "costs", "cost": "costs",
    "sample": "sample", "exit": "exit", "split": "split", "query": QUERY,
    "top_logits": "top_logits", "top_classes": "top_classes", "rest": "rest",
}  # fmt: skip
#: How others spell them, by the key that it means.
_SPELLINGS = {
    spelling: key
    for key, spellings in {
        "logits": "layer_logits exit_logits all_logits log_probs logprobs log_probabilities log_softmax",
        "probs": "prob proba probas softmax layer_probs exit_probs",
        "labels": "gold_label_ind gold_label_idx label_ids label_id y y_true gt gts ground_truth ground_truths gold "
        "golds gold_labels gold_label true_labels true_label target_ids gold_answer reference_answer",
        "pred": "preds predictions predicted predicted_labels predicted_label pred_labels pred_label y_pred yhat y_hat "
        "response responses answer answers model_answer model_answers",
        "conf": "confs confidences max_prob maxprob max_probs",
        "conf_logprob": "logprob log_prob log_conf log_confidence log_confidences conf_logprobs",
        "correct": "is_correct corrects correctness",
        "group": "group_ids",
        "top_prob": "top_probs",
        "top_classes": "top_class top_indices top_ids",
        "query": "router_score query_embedding query_embeddings",
        "outputs": "exits exit_outputs",
        "sample": "sample_id sample_idx id ids idx ind index uid guid qid question_id example_id row_id",
        "exit": "exit_id exit_idx exit_index model model_name layer tier",
    }.items()
    for spelling in spellings.split()
}
#: Too short or too common to stand after anything but the name of a split.
_SHORT = ("y", "gt", "gold", "id", "ids", "idx", "ind", "index")
_SHORT += ("exit", "model", "layer", "tier", "sample", "split", "query", "rest")
#: Texts a file may hold about itself.
OPTIONS = ("axes", "kind", "unit", "cost_kind", "quality_of", "error_scale")
_BASES = "|".join(sorted({*SYNONYMS, *_SPELLINGS}, key=len, reverse=True))
_KEY = re.compile(
    r"(?:(?P<prefix>[A-Za-z0-9_.-]+?)_)??"
    rf"(?P<base>mean_\w+|names|contexts|(?i:{_BASES})|features_\d{{1,4}}|query_\d{{1,5}}|cost_\w+|latency_\w+)"
)
_MAX_KEY = 256  # characters: reading one takes time that grows with their square
_ALIASES = {
    "fit": ("fit", "val", "valid", "validation", "dev"),
    "calibrate": ("calibrate", "calibration", "calib", "cal"),
    "test": ("test",),
}
_SPLITS = ("train", *(name for names in _ALIASES.values() for name in names))
#: What exits are called where they are counted: of the second kind only some may have an exit.
_COUNTED = ("exit", "exits", "head", "model", "branch", "classifier", "ic", "stage")
_COUNTED += ("arr", "out", "output")
DEPTHS = ("layer", "block", "level")
_LAST = re.compile(r"(?i)(?<![a-z])(?:final|last)(?![a-z])")
#: Roles with one value per sample, whatever the exit.
PER_SAMPLE = ("labels", "context", GROUP, "split", "sample", "exit", QUERY)
_ROLE_WORDS = {*SYNONYMS, *_SPELLINGS} - {"exit", "model", "layer", "tier"}


@dataclass(frozen=True)
class Place:
    """Where a key's values belong: under `key`, of all exits or of one, perhaps of one class (tables)."""

    key: str
    exit: int | str | None = None
    column: int | None = None
    word: str = ""  # what is counted: exit, layer, ...

    @property
    def role(self) -> str:
        """What the key means, see `parse_key`."""
        return (parse_key(self.key) or (None, "metadata"))[1]


def split_name(name: str) -> str:
    """Return the split that a name means: ``val`` is ``fit``, ``cal`` is ``calibrate``."""
    return next((split for split, names in _ALIASES.items() if name.lower() in names), name)


def names_split(prefix: str | None) -> bool:
    """Whether a prefix is one of the known names of splits."""
    return prefix is not None and prefix.lower() in _SPLITS


def parse_key(key: str) -> tuple[str | None, str, str] | None:
    """Divide a key into prefix, role (of `SYNONYMS`, ``features_0``, ``cost``, ``metadata``) and base, if known."""
    match = _KEY.fullmatch(key) if len(key) <= _MAX_KEY else None
    if match is None:
        return None
    prefix, base = match["prefix"], match["base"]
    if base in ("names", "contexts") or base.startswith("mean_"):
        return prefix, "metadata", base
    base = base if base.startswith(("cost_", "latency_", "features_")) else base.lower()
    numbered = re.fullmatch(r"query_\d+", base)  # one number of several
    if (base in _SHORT or numbered) and prefix is not None and not names_split(prefix):
        return None
    base = _SPELLINGS.get(base, base)
    role = base if base.startswith("features_") else SYNONYMS.get(base, "cost")
    role = QUERY if numbered else role
    return prefix, role, base


def place_of(key: str) -> Place | None:
    """Return where a key's values belong; None where nothing tells."""
    text = key.strip()
    if len(text) > _MAX_KEY:
        return None
    found = _numbered(text)
    if found is not None:
        return found
    known = parse_key(text)
    if known is not None:
        return Place(_joined(known[0], known[2]))
    head, _, tail = text.rpartition("_")
    if names_split(tail) and (known := parse_key(head)) and known[0] is None:  # logits_test
        return Place(_joined(tail, known[2]))
    return None


def _joined(prefix: str | None, base: str) -> str:
    return base if prefix is None else f"{prefix}_{base}"


def _numbered(text: str) -> Place | None:
    """Return the place of ``logits_0``, ``exit1``, ``layer_3_probs``, ``val_conf_2``; of ``logits_0_5``, a class's."""
    rest, numbers, word = list[str](), list[str](), ""
    for segment in re.split(r"[_.\-/ \[\]()]+", text.rstrip("])")):
        letters = segment.rstrip("0123456789")
        counted = letters.lower() in (*_COUNTED, *DEPTHS)
        if not 1 <= len(segment) - len(letters) <= 4 or not (
            not letters or counted or letters.lower() in ("class", *_ROLE_WORDS)
        ):
            rest.append(segment)
            continue
        if not numbers:
            if not letters and rest and rest[-1].lower() in (*_COUNTED, *DEPTHS):
                letters, counted = rest.pop(), True
            word = letters.lower() if counted else ""
        numbers.append(segment[len(segment.rstrip("0123456789")) :])
        if letters and not counted and letters.lower() != "class":
            rest.append(letters)
    rest = [part for part in rest if part.lower() != "class"]
    if not 1 <= len(numbers) <= 2:
        return None
    if (not rest and (word or text.isdigit())) or (len(rest) == 1 and names_split(rest[0])):
        rest.append("outputs")
    known = parse_key("_".join(rest))
    if known is None or known[1] in (*PER_SAMPLE, "metadata") or known[1].startswith("features_"):
        return None
    if known[1] == "features":
        return Place(_joined(known[0], f"features_{int(numbers[0])}"))
    if len(numbers) == 1:
        return Place(_joined(known[0], known[2]), int(numbers[0]), None, word)
    if known[1] not in ("logits", "logit", "probabilities", "outputs"):
        return None
    base = "logits" if known[1] == "logit" else known[2]
    return Place(_joined(known[0], base), int(numbers[0]), int(numbers[1]), word)


def _thing(place: Place) -> tuple[str | None, str]:
    """Return what two keys of one place share: prefix and role, of costs the name."""
    prefix, role, base = parse_key(place.key) or (None, "", place.key)
    return prefix, base if role == "cost" else role


def suffixed(key: str) -> Place | None:
    """Return the place of ``conf_small``: an exit's name after what it gives, where the file has such for several."""
    if len(key) > _MAX_KEY:
        return None
    match = re.fullmatch(rf"(?i:({_BASES}))_([A-Za-z0-9_.-]+)", key.strip())
    known = match and parse_key(match[1])
    if not match or not known or known[1] in (*PER_SAMPLE, "metadata", "costs"):
        return None
    return Place(known[2], match[2])


def may_be_used(key: str, said: Mapping[str, Sequence[str]]) -> bool:
    """Whether a key has a place, alone or among others, or the user names it."""
    named = any(key in keys for keys in said.values())
    return named or place_of(key) is not None or suffixed(key) is not None


def places(
    keys: Iterable[str], said: Mapping[str, Sequence[str]], note: Any
) -> tuple[dict[str, Place], list[str]]:
    """Return the place of each key that has one, and the others; what the user says (role to keys) goes first."""
    keys, found, taken = list(keys), dict[str, Place](), dict[Any, str]()
    for role, named in said.items():
        place = place_of(role)
        if place is None or parse_key(place.key) is None:
            allowed = f"ROLE=KEY with a role of {', '.join(dict.fromkeys(SYNONYMS.values()))}"
            step = "E.g. --key labels=gt (Python: keys={'labels': 'gt'})."
            raise input_error("key", allowed, role, step)
        for k, key in enumerate(named):
            if key in keys:
                found[key] = place if len(named) == 1 else Place(place.key, k)
            if len(named) > 1 and _thing(place)[1] == QUERY:
                found[key] = Place(f"{place.key}_{k}")
                taken[_thing(found[key]), found[key].exit, found[key].column] = key
    claimed = {_thing(place): key for key, place in found.items()}
    # The order of spellings, ours first, decides which of two keys for one thing is taken.
    order = {spelling: i for i, spelling in enumerate(_SPELLINGS)}
    rest = [key for key in keys if key not in found]
    rest.sort(key=lambda key: order.get(key.strip().lower(), -1))
    for key in rest:
        place = place_of(key)
        if place is None:
            continue
        mine = (_thing(place), place.exit, place.column)
        if _thing(place) in claimed and (place.exit is None or mine in taken):
            note(f"key {key!r} not used beside {claimed[_thing(place)]!r}, as is said")
            continue
        if mine in taken and key.strip().lower() in order:
            note(f"key {key!r} not used beside {taken[mine]!r}")
            continue
        found[key], taken[mine] = place, taken.get(mine, key)
        if key.strip().lower() in order and place.key not in ("sample", "exit"):
            note(f"key {key!r} read as {place.key}")
    _place_last(keys, found, note)
    names = [(key, suffixed(key)) for key in keys if key not in found]
    whole = {p.key for p in found.values() if p.exit is None}
    for key, place in names:
        several = [p for _, p in names if p and place and p.key == place.key]
        if place and len(several) > 1 and place.key not in whole:
            found[key] = place
    rest = [key for key in keys if key not in found]
    return {key: found[key] for key in keys if key in found}, rest


def _place_last(keys: Sequence[str], found: dict[str, Place], note: Any) -> None:
    """Place ``logits_final`` behind ``logits_0`` and ``logits_1``, where there is one for each that is numbered."""
    given = [p for p in found.values() if isinstance(p.exit, int) and p.column is None]
    free = [key for key in keys if key not in found or found[key].exit is None]
    places = {key: place_of(_LAST.sub("9999", key)) for key in free}
    last = {key: place for key, place in places.items() if place and place.exit == 9999}
    if given and {p.key for p in given} == {p.key for p in last.values()}:
        number = max(int(p.exit or 0) for p in given) + 1
        found |= {key: replace(place, exit=number) for key, place in last.items()}
        note(f"{', '.join(last)} taken as the last exit")


def without_split(names: Sequence[str]) -> list[str]:
    """Return names without the name of the split that all of them begin or end with."""
    for pattern in (r"^([A-Za-z]+)[_.-]", r"[_.-]([A-Za-z]+)$"):
        words = {"".join(re.findall(pattern, name)) for name in names}
        if len(words) == 1 and names_split(*words):
            names = [re.sub(pattern, "", name) for name in names]
    return list(names)


def counted(names: Sequence[str]) -> list[int]:
    """Return the order of names by their numbers, ``exit2`` before ``exit10``, where all have one; else as they are."""
    numbers = [place.exit if (place := place_of(name)) else None for name in names]
    known = all(isinstance(number, int) for number in numbers)
    return sorted(range(len(names)), key=lambda k: int(numbers[k] or 0) if known else k)
