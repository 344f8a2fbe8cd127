"""Pictures of a page at three widths, light and dark, and as printed, to be looked at.

``python benchmarks/page_screens.py report.html FOLDER``
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(source: str, folder: str) -> None:
    """Write ``light_400.png`` and so on, and ``paper.pdf``, into a folder."""
    from playwright.sync_api import sync_playwright

    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as tool:
        path = shutil.which("chromium")
        browser = tool.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width in (400, 1000, 1600):
                size: dict = {"width": width, "height": 900}
                page = browser.new_page(viewport=size, color_scheme=scheme)
                page.on("pageerror", lambda error: print(error.stack))
                page.goto(Path(source).resolve().as_uri())
                while not page.evaluate("policyopt.figures.every(f => f.drawn)"):
                    page.wait_for_timeout(50)
                page.screenshot(path=out / f"{scheme}_{width}.png", full_page=True)
                if width == 1600 and scheme == "light":
                    page.pdf(path=out / "paper.pdf", format="A4")
                page.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
