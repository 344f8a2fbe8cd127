"""``policyopt report``: one file to look at, for people who decide."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from policyopt._cli import options, output
from policyopt._cli.fit import foretell
from policyopt._cli.options import argument, option
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import load_any

#: How much longer fits take at the page's budgets than at nine: they share the training.
_LONGER = 4


def report(
    paths: list[Path] = argument(
        "Directory of a cache; of several for a study; or what was written while serving: logs, saved states.", "CACHE"
    ),
    methods: str | None = option(None, "As `curve`; max_prob is added. Default: simple rules, and auto."),
    policies: list[str] | None = option(None, "Files of policies and families to show: a.json b.json."),
    risk: list[str] | None = option(None, 'Show levels of auto certified for it, too: "drop<=1%".'),
    samples: str | None = option(None, "Images or texts by row of the split: a folder (17.png, 17.txt), or FILE:COLUMN."),
    budget: str | None = option(None, "That of a decision log's policy; default: its file's (--policies)."),
    out: Path = option(Path("report.html"), "Page to write."),
    settings: list[str] | None = options.SETTINGS,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    head_cost: list[str] | None = options.HEAD_COST,
    test: str = options.TEST,
) -> None:  # fmt: skip
    """Write a page: verdict, policies at all budgets to slide through, and what they do."""
    from policyopt._certificates.certify import SPLIT, certify
    from policyopt._methods.registry import apply_settings, method_list
    from policyopt._page import content
    from policyopt._page.results import is_state
    from policyopt._page.samples import Samples
    from policyopt._study.study import named_caches, study

    options.out_page(out)
    if any(map(is_state, paths)):
        for name in policies or () if budget is None else ():
            budget = load_any(name).provenance.get("budget")
        options.write_page(out, "monitor", paths, budget)
        return
    loose = [path for path in paths if policies and path.suffix == ".json"]
    (cache, *others) = [path for path in paths if path not in loose] or [Path()]
    if others:
        with output.progress("studying"):
            found = study(
                named_caches([cache, *others], output.note),
                method=methods or "auto",
                test=test,
                cost=cost,
                utility=utility,
            )
        options.write_page(out, "study", found)
        return
    if not cache.name:
        raise input_error(
            "CACHE",
            "one directory of a cache",
            " ".join(map(str, paths)),
            "E.g. cache/fashion_mnist.",
        )
    names = [name.strip() for text in policies or () for name in text.split(",")] + [
        *map(str, loose)
    ]
    given: dict[str, Any] = {name: load_any(name) for name in names}
    shown = None if samples is None else Samples(samples, "--samples")
    data, chosen = options.read_cache(cache), None
    if risk and SPLIT not in data.split_names:
        step = "Import with such rows (--split fit=0.5,calibrate=0.2,test=0.3)."
        raise input_error("--risk", f"given with a cache that has a split {SPLIT}", risk[0], step)
    if methods or settings:
        chosen = apply_settings(
            method_list(methods or "", "--methods"), options.read_settings(settings)
        )
    tables = options.make_tables(data, cost, ("fit", test), utility, head_cost)
    entered = [
        ("--cost", cost),
        ("--utility", utility),
        *(("--head-cost", one) for one in head_cost or ()),
    ]
    fits = output.command("fit", cache, *(word for pair in entered if pair[1] for word in pair))
    rows = tables.get("fit")
    foretell(
        list(content.with_reference(chosen, rows, bool(given))), len(rows), content.BUDGETS, _LONGER
    )
    with output.progress("fitting") as step:
        given |= {
            f"certified {one}": certify(data, one, tables=tables).family for one in risk or ()
        }
        page = content.report(
            data, chosen, policies=given, title=cache.resolve().name, test=test, samples=shown, tables=tables,
            command=shlex.join(["policyopt", *sys.argv[1:]]), fits=fits,
            progress=lambda what, done, total: step(done, total, what),
        )  # fmt: skip
    with output.writing(out):
        page.save(out)
    for text in page.content["notes"]:
        output.note(text)
    if verdict := page.content["verdict"]:
        output.say(verdict["headline"])
    output.say(f"wrote {out}, {len(page.html) / 1e6:.1f} MB: open it in a browser")
