"""``python -m examples.notebooks``: run the notebooks anew and keep what they show, without what differs each time."""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
#: Bytes of a notebook, its outputs included: GitHub shows no large ones, and every change is kept for ever.
MOST = 150_000


def main() -> None:
    """Run all notebooks, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m examples.notebooks", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all that are here")
    for path in parser.parse_args().notebooks or sorted(HERE.glob("*.ipynb")):
        started = time.monotonic()
        path.write_text(ran(path), encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes, {time.monotonic() - started:.0f} s")


def ran(path: Path) -> str:
    """Return a notebook as a text, with the outputs of running it from top to bottom."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    os.environ["TQDM_DISABLE"] = "1"  # a bar is no result
    NotebookClient(notebook, timeout=600, record_timing=False, resources=place).execute()
    return tidy(notebook)


def tidy(notebook: Any) -> str:
    """Return a notebook as a text without what differs from run to run; refuse one that is too large."""
    kernel = notebook.metadata["kernelspec"]
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            output.pop("metadata", None) if output.output_type == "stream" else output.update(
                metadata={}
            )
            drawn = output.get("data", {})
            if "text/html" in drawn or "image/png" in drawn:
                drawn.pop("text/plain", None)
            if "image/png" in drawn:
                drawn["image/png"] = smaller(drawn["image/png"])
    text = nbformat.writes(notebook, indent=1).rstrip("\n") + "\n"
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+", "folder", text)
    if len(text.encode()) > MOST:
        raise SystemExit(f"error: {len(text.encode()):,} bytes, {MOST:,} at most: draw less")
    return text


def smaller(png: str) -> str:
    """Return a drawing in 64 colours, a third of its bytes; one that has them as it is."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        out := io.BytesIO(), "PNG", optimize=True
    )
    return base64.b64encode(out.getvalue()).decode() + "\n"


if __name__ == "__main__":
    main()
