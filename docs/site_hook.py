"""Hooks of the documentation site: pages and notebooks that stand elsewhere, and the command line's reference.

Links between pages are written as they hold in the repository, so that they work there too; here they are
turned into links of the site. A link to a file that is no page of the site becomes its text.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
#: Files outside docs/ that are part of the site.
OUTSIDE = [
    "*.md", "CITATION.cff", "benchmarks/*.md", "benchmarks/results/*.md", "examples/*/README.md", "examples/*/*.png",
    "cache/*/README.md",
]  # fmt: skip
#: Pages without neighbours.
ALONE = ("index.md", "tutorial.md", "notebooks.md", "choosing_a_policy.md")
_NAMES = re.compile(r"^<!-- public names of ([\w.]+) -->$", re.M)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not stand in docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, _site(name), abs_src_path=str(path)))
    for path in sorted(ROOT.glob("examples/*/*.ipynb")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, _site(name), content=notebook(path)))
    files.append(File.generated(config, "reference/cli.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links of the repository into links of the site; put in the names of a package where asked for."""
    if page.file.src_uri in ALONE:
        page.meta["hide"] = ["navigation"]
    if page.file.src_uri == "reference/cli.md":
        return markdown
    markdown = _NAMES.sub(lambda match: names(match[1]), markdown)
    source = _repository(page.file.src_uri)

    def linked(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        place, mark, anchor = target.partition("#")
        if not place or re.match(r"\w+:", target):
            return match[0]
        found = _normal(PurePosixPath(source).parent / place)
        uri = _site(found)
        if files.get_file_from_path(uri) is None:
            if (ROOT / found).exists():
                return text
            return match[0]  # to nothing: the strict build says so
        up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"{image}[{text}]({up}{uri}{mark}{anchor})"

    parts = _CODE.split(markdown)
    return "".join(p if k % 2 else _LINK.sub(linked, p) for k, p in enumerate(parts))


def notebook(path: Path) -> str:
    """Return a notebook as a page: its prose, its code, and what that showed."""
    pieces = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        pieces.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            shown = output.get("data", {"text/plain": output.get("text", "")})
            one = {kind: "".join(value) for kind, value in shown.items()}
            if "image/png" in one:
                data = one["image/png"].replace("\n", "")
                pieces.append(f'<img src="data:image/png;base64,{data}" alt="What the cell draws">')
            elif "text/html" in one:
                pieces.append(one["text/html"])
            else:
                pieces.append(f"```text\n{one['text/plain'].rstrip()}\n```")
    return "\n\n".join(pieces) + "\n"


def _site(name: str) -> str:
    """Return where on the site a file of the repository stands; a notebook is a page there."""
    name = re.sub(r"\.ipynb$", ".md", name)
    if name == "README.md":
        return "index.md"
    return name.removeprefix("docs/") if name.startswith("docs/") else f"repository/{name}"


def _repository(uri: str) -> str:
    if uri == "index.md":
        return "README.md"
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def names(package: str) -> str:
    """Return what has mkdocstrings describe each public name of a package."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    lists = [
        a.value
        for a in tree.body
        if isinstance(a, ast.Assign) and ast.unparse(a.targets[0]) == "__all__"
    ]
    public = sorted(ast.literal_eval(lists[0]), key=lambda name: (name[0].isupper(), name.lower()))
    return "\n\n".join(f"::: {package}.{name}" for name in public)


def commands() -> str:
    """Return the reference of the command line, from the commands themselves."""
    import typer

    from policyopt._cli.app import app

    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="policyopt")
    shared = "Common to all commands: [here](../howto/fit.md#what-all-commands-share)."
    lines = ["# Command line", "", _text(group.help), "", shared, ""]
    lines += ["```", f"policyopt {_usage(group, context)}", "```", "", *_table(group, context)]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=f"policyopt {name}")
        lines += [f"## {name}", "", _text(command.help or ""), ""]
        lines += ["```", f"policyopt {name} {_usage(command, inner)}", "```", ""]
        lines += _table(command, inner)
    return "\n".join(lines)


def _usage(command: Any, context: Any) -> str:
    return " ".join(command.collect_usage_pieces(context))


def _table(command: Any, context: Any) -> list[str]:
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [f"| `{name}` | {_cell(told)} |" for name, told in filter(None, records)]
    return ["| argument or option | |", "| --- | --- |", *rows, ""] if rows else []


def _text(text: str) -> str:
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(part.replace("<", "&lt;") for part in parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
