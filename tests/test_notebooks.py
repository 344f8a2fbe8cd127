"""Notebooks: `pytest --nbmake` runs them; here: what is committed was run, is small, and leads on."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

import policyopt as po
import policyopt.runtime
from examples.notebooks.__main__ import MOST, tidy

PLACE = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(PLACE.glob("*.ipynb"))
LINK = re.compile(r"\[[^\]]*\]\(([^()\s#]+)(#[^()\s]+)?\)")


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_make_test_runs_them_all(pytestconfig):
    assert len(NOTEBOOKS) >= 6
    assert "examples/notebooks" in pytestconfig.getini("testpaths")
    assert "--nbmake" in pytestconfig.getini("addopts")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook(path):
    """It teaches between the cells, was run from top to bottom, holds nothing of this machine, and uses public names."""
    text = path.read_text(encoding="utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert len(text.encode()) <= MOST and tidy(nbformat.reads(text, as_version=4)) == text
    assert not re.search(r"/(tmp|home|root|work|usr)/", text)
    code, prose = cells(path, "code"), [source(cell) for cell in cells(path, "markdown")]
    assert prose[0].startswith("# ") and len(prose) >= len(code) / 2
    assert "## Where to go next\n" in prose[-1] and len(LINK.findall(prose[-1])) >= 3
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)], (
        "run: make notebooks"
    )
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum(o["output_type"] in ("display_data", "execute_result") for o in outputs) >= 1
    assert {o.get("name") for o in outputs} <= {None, "stdout"}  # no warnings, no bars
    for node in ast.walk(ast.parse("\n".join(map(source, code)))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "po":
            assert node.attr in po.__all__
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("policyopt"):
            assert node.module == "policyopt.runtime"
            assert {name.name for name in node.names} <= {*policyopt.runtime.__all__}


def anchors(path):
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), PLACE / "README.md"]  # fmt: skip


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    if path.suffix == ".ipynb":
        text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    else:
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for target, anchor in LINK.findall(text):
        if re.match(r"\w+:", target):
            continue
        place = Path(path.parent, target)
        assert place.exists(), target
        if anchor and place.suffix == ".md":
            assert anchor[1:] in anchors(place), target + anchor


def test_every_notebook_is_listed():
    for page in (PLACE / "README.md", ROOT / "docs" / "notebooks.md"):
        linked = {Path(target).name for target, _ in LINK.findall(page.read_text())}
        assert {path.name for path in NOTEBOOKS} <= linked
