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
from ..errors import InputError, input_error
from ..files import write_file
from ..strict_json import digest_of, parse, read_plain, to_text
from .ladder import Ladder

if TYPE_CHECKING:
    from .serving import Online

FORMAT, VERSION = "policyopt-online", 1
MAX_BYTES = 64 << 20
FIELDS = (
    "format", "version", "saves", "policy", "thresholds", "labels", "steering", "settings", "state", "sha256",
)  # fmt: skip
_SETTINGS = ("overhead", "reward", "reveal", "seed", "stream")


def online_to_dict(online: Online, saves: int) -> dict[str, Any]:
    """Return the file's content, checksum included; `saves`: how often its line was saved."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "saves": saves,
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
    """Write the file, atomically, unless another has; see `Online.save`."""
    path = Path(check_type("path", path, (str, os.PathLike), "a path", "E.g. online.json."))

    def text() -> str:
        # Asked for while no one else writes the file: two threads that save cannot turn it back.
        if path.exists():
            _check_own(online, path)
        content = online_to_dict(online, online._saves + 1)
        online._saves += 1
        online._own_files.append(content["sha256"])
        return to_text(content, "online policy", MAX_BYTES)

    write_file(path, text)


def _check_own(online: Online, path: Path) -> None:
    """Refuse a file that holds what this object never knew."""
    try:
        content = _read(path)
    except InputError as error:
        raise input_error("path", "a new file, or one that Online.save wrote", f"{path} ({error})",
                  "Save to another file.") from error  # fmt: skip
    if content["sha256"] not in online._own_files:
        raise input_error(
            "path", f"a file that this object was the last to save (it has {online._saves} saves)",
            f"{path}, which another has saved since ({content['saves']} saves)",
            "Load it and go on from there, give each process a file of its own, or delete it.",
        )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    """Return a file's content, its form and checksum checked."""
    data = read_plain(path, "online policy", MAX_BYTES, "`Online.save` writes one.")
    content = parse(data, path.name, MAX_BYTES, "Is the file whole? Save it again.")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise input_error(
            path.name, f"a file of format '{FORMAT}'", "something else", "`Online.save` writes one."
        )
    content = dict(checked(path.name, content, FIELDS))
    if content["version"] != VERSION or type(content["version"]) is not int:
        raise input_error(
            f"version of {path.name}", str(VERSION), content["version"], "Update policyopt."
        )
    body = {name: value for name, value in content.items() if name != "sha256"}
    try:
        same = digest_of(body) == content["sha256"]
    except ValueError as error:
        raise input_error(
            path.name, "free of infinite numbers", str(error), "Save it again."
        ) from error
    if not same:
        raise InputError(
            f"'{path.name}' was changed after it was written: its checksum differs. Save it again."
        )
    if type(content["saves"]) is not int or not 1 <= content["saves"] < 1 << 62:
        raise input_error(
            f"saves of {path.name}", "1 or more, below 2**62", content["saves"], "Save it again."
        )
    return content


def load_online(path: Any) -> Online:
    """Read the file; see `Online.load`."""
    from .serving import Online
    from .steering import steering_of

    path = Path(path)
    content = _read(path)
    steering = checked("steering", content["steering"], ("name", "settings"))
    settings = checked("settings", content["settings"], _SETTINGS)
    if not isinstance(settings["overhead"], list):  # a number will do for `Online`, not in a file
        raise input_error(
            "overhead", "a list of two numbers", settings["overhead"], "Save it again."
        )
    _check_window(steering["settings"], content["state"])
    try:
        ladder = Ladder(
            from_dict(content["policy"], path.name), content["thresholds"], content["labels"]
        )
        online = Online(ladder, steering_of(steering["name"], steering["settings"]), **settings)
        online.restore(content["state"])
        online._saves = content["saves"]
        online._own_files.append(content["sha256"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise input_error(
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
        raise input_error("ring", allowed, got, "Save it again.")
