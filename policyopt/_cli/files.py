"""What the files are that policyopt writes: known by how they begin, told in a few lines; nothing in them is run."""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from policyopt.runtime._errors import InputError
from policyopt.runtime._experts import MAX_EXPERTS_BYTES
from policyopt.runtime._policy import read_json
from policyopt.runtime._strict_json import parse

#: Bytes by which a file is known; values that are told of a list.
_HEAD, _FEW = 4096, 20
POLICY = "a policy"


def recognised(path: Path) -> dict[str, Any] | None:
    """Return what a file, or a folder by its manifest, is, what is next, and facts in it; None: none that we write."""
    if path.is_dir():
        found = [recognised(p) for p in (path / "plan.json", path / "manifest.json") if p.is_file()]
        if not found:  # or by the first result in it
            each = sorted(p for p in islice(path.iterdir(), 100) if p.suffix in (".csv", ".json"))
            found = [one for one in map(recognised, each) if one and "a result" in one["what"]]
        return found[0] if found and found[0] and "cache" not in found[0]["what"] else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    content, sign = dict[str, Any](), head.decode("latin-1")
    if head.lstrip()[:1] == b"{":
        try:  # of a log, the first of its lines
            content = parse(head.partition(b"\n")[0], path.name, _HEAD, "")
        except InputError:
            content = read_json(path, MAX_EXPERTS_BYTES)
        sign = str(content.get("format") or " ".join(content))
    kinds = (files("policyopt._cli") / "files.toml").read_text("utf-8")
    for kind in tomllib.loads(kinds)["file"]:
        if known := re.match(kind["begins"], sign, re.DOTALL | re.MULTILINE):
            names = {"path": path, "folder": path.parent, "above": path.resolve().parent.parent}
            told = {name: shlex.quote(str(place)) for name, place in names.items()}
            told["command"] = (known.lastgroup or "").replace("_", "-")
            lists = {k: v if isinstance(v, list) else [v] for k, v in content.items()}
            facts = {
                k: content[k] for k, v in lists.items() if 0 < len(v) <= _FEW
                and not any(isinstance(x, (list, dict)) for x in v) and k not in ("sha256", "wealth", "sums")
            }  # fmt: skip
            if isinstance(alarm := facts.get("alarm"), list):
                facts["alarm"] = f"ON, since loss {alarm[0]}"
            facts |= {} if content else {"bytes": path.stat().st_size}
            if path.suffix == ".csv":
                facts["columns"] = sign.split("\n")[0].split(",")[:_FEW]
            said = {of: kind.get(of, "").format(**told) for of in ("what", "next")}
            return {**said, "facts": facts}
    return None
