"""One self-contained page from a content: a template, a style, a script, and plotly where figures need it.

Texts of a content are anyone's: the template escapes them, the script puts them into the page as text alone, and the
page's own policy lets no script run but those whose digest it names, and nothing be fetched.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from policyopt._costs import money
from policyopt._optional import need
from policyopt.runtime._text import printable

_TEMPLATES = Path(__file__).parent / "templates"
#: What would end a script element or a line of its text; JSON writes them as well by their number.
_ENDS = re.compile("[<>&\u2028\u2029]")


def render(content: Mapping[str, Any]) -> str:
    """Return the page of a content (JSON-able, finite numbers) as one HTML document."""
    jinja2 = need("jinja2", "report", "to write a page")
    from markupsafe import Markup  # comes with jinja2

    explorer = dict(content["explorer"] or {})
    chunks = explorer.pop("chunks", "")  # by far the largest: read when a policy is downloaded
    if explorer and (of := money(explorer["unit"])):
        amount, currency = of if of[1] else (100 * of[0], "ct")
        explorer["money"] = {"amount": amount, "currency": currency}  # of a request
    told = {**content, "title": printable(content["title"]), "explorer": explorer or None}
    script = _text("page.js")
    library = _plotly() if any(p["figure"] or p["views"] for p in content["panels"]) else ""
    return (
        jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        .get_template("page.html")
        .render(
            page=told,
            rules=_rules(script, library),
            style=Markup(_text("page.css")),
            content=Markup(_json(told)),
            chunks=Markup(_json(chunks)),
            script=Markup(script),
            library=Markup(library),
        )
    )


def _json(value: Any) -> str:
    """Return JSON that can stand in a script element."""
    told = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return _ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", told)


def _rules(*scripts: str) -> str:
    """Return what the page may do: run these scripts, look as it says, show pictures that it holds."""
    digests = (b64encode(sha256(s.encode()).digest()).decode() for s in scripts if s)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    offline = need("plotly.offline", "report", "to draw the figures of a page")
    return offline.get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
