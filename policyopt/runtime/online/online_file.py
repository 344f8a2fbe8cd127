"""The file of an `Online`: policy, rungs, settings and state in one JSON, checked when loaded."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import to_dict
from ..bandits.parts.saved import checked
from ..checks import check_type
from ..content import from_dict
from ..errors import InputError, bad
from ..files import write_file
from ..strict_json import digest_of, parse, read_plain, to_text
from .ladder import Ladder

if TYPE_CHECKING:
    from .serving import Online

FORMAT, VERSION = "policyopt-online", 1
MAX_BYTES = 64 << 20
FIELDS = (
    "format", "version", "policy", "thresholds", "labels", "steering", "settings", "state", "sha256",
)  # fmt: skip
_SETTINGS = ("overhead", "reward", "reveal", "seed", "stream")


def online_to_dict(online: Online) -> dict[str, Any]:
    """Return the file's content, checksum included."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "policy": to_dict(online.ladder.policy),
        "thresholds": online.ladder.thresholds.tolist(),
        "labels": online.ladder.labels.tolist(),
        "steering": {"name": online.steering.name, "settings": asdict(online.steering)},  # type: ignore[call-overload]
        "settings": {
            **{n: getattr(online, n) for n in _SETTINGS},
            "overhead": list(online.overhead),
        },
        "state": online.state(),
    }
    return {**content, "sha256": digest_of(content)}


def save_online(online: Online, path: Any) -> None:
    """Write the file, atomically; see `Online.save`."""
    path = Path(check_type("path", path, (str, os.PathLike), "a path", "E.g. online.json."))
    if path.is_dir():
        raise bad("path", "a file", f"{path} (a directory)", f"E.g. {path / 'online.json'}.")
    write_file(path, to_text(online_to_dict(online), "online policy", MAX_BYTES))


def load_online(path: Any) -> Online:
    """Read the file; see `Online.load`."""
    from .serving import Online
    from .steering import steering_of

    path = Path(path)
    data = read_plain(path, "online policy", MAX_BYTES, "`Online.save` writes one.")
    content = parse(data, path.name, MAX_BYTES, "Is the file whole? Save it again.")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise bad(
            path.name, f"a file of format '{FORMAT}'", "something else", "`Online.save` writes one."
        )
    content = dict(checked(path.name, content, FIELDS))
    if content["version"] != VERSION or type(content["version"]) is not int:
        raise bad(f"version of {path.name}", str(VERSION), content["version"], "Update policyopt.")
    body = {name: value for name, value in content.items() if name != "sha256"}
    try:
        same = digest_of(body) == content["sha256"]
    except ValueError as error:
        raise bad(path.name, "free of infinite numbers", str(error), "Save it again.") from error
    if not same:
        raise InputError(
            f"'{path.name}' was changed after it was written: its checksum differs. Save it again."
        )
    steering = checked("steering", content["steering"], ("name", "settings"))
    settings = checked("settings", content["settings"], _SETTINGS)
    if not isinstance(settings["overhead"], list):  # a number will do for `Online`, not in a file
        raise bad("overhead", "a list of two numbers", settings["overhead"], "Save it again.")
    _check_window(steering["settings"], content["state"])
    try:
        ladder = Ladder(
            from_dict(content["policy"], path.name), content["thresholds"], content["labels"]
        )
        online = Online(ladder, steering_of(steering["name"], steering["settings"]), **settings)
        online.restore(content["state"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise bad(
            path.name, "a whole file of an online policy", str(error), "Save it again."
        ) from error
    return online


def _check_window(settings: Any, state: Any) -> None:
    """Refuse a window of more rounds than the file holds: memory for it is taken first."""
    window = settings.get("window") if isinstance(settings, dict) else None
    if window is None:
        return
    player = state.get("player") if isinstance(state, dict) else None
    ring = player.get("ring") if isinstance(player, dict) else None
    if not isinstance(ring, list) or len(ring) != window:
        got = f"{len(ring)} rounds" if isinstance(ring, list) else "none"
        allowed = f"a list of as many rounds as the window: {window}"
        raise bad("ring", allowed, got, "Save it again.")
