"""``python -m examples.model_zoo``: what a zoo is worth with a policy, against its best single models.

Divides the rows several times into those that fit and those that test, fits each method along the budgets, and holds
all against each other at equal realised cost on the test rows. Writes ``curve.png``; ``--readme`` puts the table there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import policyopt as po
from policyopt._frontier import path_through, values_at
from policyopt._report.figures import (
    add_legend,
    log_scale,
    marked_look,
    new_figure,
    save_figure,
    tidy,
)
from policyopt.runtime._files import write_file

from .models import MODELS

SHIPPED = Path("cache") / "model_zoo"
METHODS = ("always", "subset", "optimal_stopping", "routing")
BUDGETS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
#: Images that come with the project.
ROWS = 4000
#: Models whose names stand above their points, and not below.
ABOVE = ("linear_half", "mlp_64", "depthwise", "kernel")
MARKS = ("<!-- begin results: generated -->\n", "<!-- end results -->")

CARD = """# A zoo of {count} classifiers

Logits (float16) of {count} models of Fashion-MNIST, from a linear map to a residual network, on the first {rows:,}
images of the official test set, which none of them has seen. Each is paid by itself, in million multiply-adds:

| model | MMACs | accuracy % |
|---|---:|---:|
{table}

Written by [`examples/model_zoo`](../../examples/model_zoo/README.md), whose page says what came out:

```
python -m examples.model_zoo.train --out zoo
python -m examples.model_zoo --folder zoo --ship cache/model_zoo
```

## Licence

Fashion-MNIST is released by Zalando SE under the MIT licence (Xiao, Rasul & Vollgraf, arXiv:1708.07747). The logits and
this card are released with the project, under Apache-2.0.
"""


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, float], Any]:
    """Return each model's logits, (N, C), and cost, and the labels: of those that are there, the cheapest first."""
    costs = json.loads((folder / "costs.json").read_text())
    logits = {m: np.load(folder / f"{m}.npy") for m in MODELS if (folder / f"{m}.npy").exists()}
    return logits, {name: costs[name] for name in logits}, np.load(folder / "labels.npy")


def from_folder(folder: Path) -> po.ExitData:
    """Return a folder of models as data."""
    logits, costs, labels = read_folder(folder)
    return po.from_arrays(
        [array.astype(np.float32) for array in logits.values()], labels, [*costs.values()], unit="MMACs",
        cost_kind="standalone", metadata={"names": [*logits]},
    )  # fmt: skip


def ship(folder: Path, out: Path) -> None:
    """Write the small cache that comes with the project."""
    logits, costs, labels = read_folder(folder)
    shutil.rmtree(out, ignore_errors=True)
    cost = po.Cost("compute", "MMACs", tuple(costs.values()), kind="standalone")
    stacked, labels = np.stack([*logits.values()], axis=1)[:ROWS], labels[:ROWS]
    with po.CacheWriter(out, costs=[cost], dtype="float16", metadata={"names": [*costs]}) as writer:
        writer.append("pool", stacked, labels)
    right = 100 * (stacked.argmax(axis=2) == labels[:, None]).mean(axis=0)
    lines = [
        f"| `{n}` | {c:.4g} | {r:.2f} |" for (n, c), r in zip(costs.items(), right, strict=True)
    ]
    write_file(
        out / "README.md",
        CARD.format(count=len(costs), rows=len(labels), table="\n".join(lines)),
    )


def heights(data: po.ExitData, methods: list[str], asked: Any, divisions: int) -> dict[str, Any]:
    """Return what each method brings to each image of the test rows at each cost, (D, N, B), NaN of the others."""
    whole = len(data.splits["pool"])
    found = {m: np.full((divisions, whole, len(asked)), np.nan, np.float32) for m in methods}
    for division in range(divisions):
        divided = replace(data, split_seed=division)
        tables = po.Tables(divided)
        fit, test = tables.get("fit"), tables.get("test")
        for method, values in found.items():
            start = time.perf_counter()
            fits = po.make_method(method).fit_path(fit, [float(b) for b in asked])
            spent = time.perf_counter() - start
            path = path_through([one.policy for one in fits], test)
            values[division, test.places] = values_at(path, np.asarray(asked))[0]
            print(f"division {division}: {method} in {spent:.1f} s", file=sys.stderr, flush=True)
    return found


def told(values: Any) -> tuple[Any, Any]:
    """Return means over images, each once however often it was a test row, and half their 95 % intervals."""
    each = np.nanmean(values[:, ~np.isnan(values).all(axis=(0, 2))], axis=0)
    return 100 * each.mean(axis=0), 196 * each.std(axis=0) / len(each) ** 0.5


def table(found: dict[str, Any], asked: Any) -> str:
    """Return accuracies at equal realised cost as markdown, and by how much the last method leads each other."""
    *_, last = found
    lines = [
        "| method | " + " | ".join(f"{b:g}" for b in asked) + f" | `{last}` leads by |",
        "|---|" + "---:|" * (len(asked) + 1),
    ]
    for method, values in found.items():
        mean, _ = told(values)
        lead, half = told((found[last] - values).mean(axis=2, keepdims=True))
        gap = (
            ""
            if method == last
            else f"{lead[0]:+.2f} [{lead[0] - half[0]:+.2f}, {lead[0] + half[0]:+.2f}]"
        )
        lines.append(f"| `{method}` | " + " | ".join(f"{a:.2f}" for a in mean) + f" | {gap} |")
    return "\n".join(lines) + "\n"


def picture(data: po.ExitData, found: dict[str, Any], asked: Any) -> Any:
    """Return accuracy against cost: single models as points, methods as lines, the last with its intervals."""
    figure = new_figure(7.5, 5.0)
    axes = figure.add_subplot()
    costs = np.diff(np.array(data.cost().values), prepend=0.0)
    rows = data.splits["pool"]
    right = (rows.array("outputs").argmax(axis=2) == rows.array("labels")[:, None]).mean(axis=0)
    axes.plot(costs, 100 * right, "o", color="0.6", label="one model alone")
    for name, cost, height in zip(data.names, costs, 100 * right, strict=True):
        place = (4, 4 if name in ABOVE else -10)
        axes.annotate(
            name, (cost, height), place, textcoords="offset points", fontsize=8, color="0.3"
        )
    *_, last = found
    for i, (method, values) in enumerate(found.items()):
        mean, half = told(values)
        (line,) = axes.plot(asked, mean, label=method, **marked_look(i, len(found)))
        if method == last:
            band = f"{method}: 95 %"
            axes.fill_between(
                asked,
                mean - half,
                mean + half,
                color=line.get_color(),
                alpha=0.15,
                lw=0,
                label=band,
            )
    log_scale(axes, costs)
    tidy(axes, "both", xlabel="million multiply-adds per image, realised", ylabel="accuracy [%]")
    add_legend(figure)
    return figure


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.model_zoo", description=__doc__)
    parser.add_argument("cache", type=Path, nargs="?", default=SHIPPED, help="default %(default)s")
    parser.add_argument("--folder", type=Path, help="a folder of models in the place of a cache")
    parser.add_argument("--ship", type=Path, help="write the small cache of a folder, and end")
    parser.add_argument("--methods", default=",".join(METHODS), help="default %(default)s")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="in MMACs")
    parser.add_argument("--divisions", type=int, default=5, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("model_zoo.png"), help="the picture")
    parser.add_argument("--readme", type=Path, help="page whose table is written anew")
    given = parser.parse_args()
    if given.ship is not None:
        ship(given.folder, given.ship)
        return 0
    data = from_folder(given.folder) if given.folder else po.open_cache(given.cache)
    asked = [float(b) for b in given.budgets.split(",")]
    found = heights(data, given.methods.split(","), asked, given.divisions)
    text = table(found, asked)
    print(text)
    save_figure(picture(data, found, asked), given.out)
    if given.readme is not None:
        page = given.readme.read_text()
        before, after = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
        write_file(given.readme, f"{page[:before]}\n{text}\n{page[after:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
