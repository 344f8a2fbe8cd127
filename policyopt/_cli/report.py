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
from policyopt.runtime._experts import any_to_dict, load_any
from policyopt.runtime._text import printable

_LONGER = 6  # times as long as at nine budgets are fits at the page's: they share the training


def report(
    paths: list[Path] = argument("A cache; several; or logs and states of serving.", "CACHE..."),
    methods: str | None = option(None, "As `curve`; max_prob is added. Default: simple, auto."),
    policies: list[str] | None = option(None, "Files of policies, families: a.json b.json."),
    risk: list[str] | None = option(None, 'Levels certified for it, too: "drop<=1%".'),
    samples: str | None = option(
        None, "Images or texts by row of pool or split: a folder (17.png, 17.txt), or FILE:COLUMN."
    ),
    budget: str | None = option(None, "Of a decision log; default: of its policy (--policies)."),
    out: Path = option(Path("report.html"), "Page to write."),
    settings: list[str] | None = options.SETTINGS,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    head_cost: list[str] | None = options.HEAD_COST,
    test: str = options.TEST,
) -> None:
    """Write a page: verdict, policies at all budgets to slide through, and what they do."""
    from policyopt._cache.decision_log import Log, is_log
    from policyopt._certificates.certify import SPLIT, certify
    from policyopt._methods.registry import apply_settings, method_list
    from policyopt._page import content
    from policyopt._page.results import is_state
    from policyopt._page.samples import Samples
    from policyopt._study.study import named_caches, study

    options.out_page(out, "--out")
    loose = [path for path in paths if policies and path.suffix == ".json" and not is_state(path)]
    cache, *others = [path for path in paths if path not in loose] or [Path()]
    names = [name.strip() for text in policies or () for name in text.split(",")]
    names += map(str, loose)
    alone = {"--risk": risk, "--samples": samples, "--set": settings, "--head-cost": head_cost}
    if is_state(cache):
        _refuse(alone | {"--methods": methods, "--utility": utility, "--cost": cost}, cache)
        served = {of for path in (cache, *others) if is_log(path) for of in Log(path).policies}
        for name in names if served else ():
            if (of := any_to_dict(load_any(name))["sha256"]) not in served:
                allowed = (
                    f"the policy that served, of sha256 {', '.join(one[:12] for one in served)}"
                )
                step = "Give the file that served, or the budget by itself (--budget)."
                raise input_error("--policies", allowed, f"{name}, of {of[:12]}", step)
        stated = [load_any(name).provenance.get("budget") for name in names]
        options.write_page(out, "monitor", [cache, *others], budget or next(iter(stated), None))
        return
    _refuse({"--budget": budget}, cache)
    if others:
        _refuse(alone | {"--policies": policies}, others[0])
        named, more = named_caches([cache, *others], output.note), {"test": test, "cost": cost}
        with output.progress("studying"):
            found = study(named, method=methods or "auto", utility=utility, **more)
        options.write_page(out, "study", found)
        return
    if not cache.name:
        got, step = " ".join(map(str, paths)), "E.g. policyopt report cache/fashion_mnist."
        raise input_error("CACHE", "a directory of a cache", got, step)
    given: dict[str, Any] = {name: load_any(name) for name in names}
    data, chosen, shown = options.read_cache(cache), None, None
    if samples is not None:
        key = data.rows(test)[0]
        of = "the whole pool" if data.pooled else f"split {key}"
        shown = Samples(samples, "--samples", len(data.splits[key]), of)
    if risk and SPLIT not in data.split_names:
        step = "Import with such rows (--split fit=0.5,calibrate=0.2,test=0.3)."
        raise input_error("--risk", f"given with a cache that has a split {SPLIT}", risk[0], step)
    if methods or settings:
        names = method_list(methods or "", "--methods")
        chosen = apply_settings(names, options.read_settings(settings))
    tables = options.make_tables(data, cost, ("fit", test), utility, head_cost)
    told = [("--cost", cost), ("--utility", utility)] + [
        ("--head-cost", h) for h in head_cost or ()
    ]
    fits = output.command("fit", cache, *(word for pair in told if pair[1] for word in pair))
    rows = tables.get("fit")
    foretold = content.with_reference(chosen, rows, bool(given))
    foretell([*foretold], len(rows), content.BUDGETS, _LONGER)
    with output.progress("making the page"):
        for one in risk or ():
            given[content.CERTIFIED + one] = certify(data, one, tables=tables).family
        page = content.report(
            data, chosen, policies=given, title=options.title(cache), test=test, samples=shown, tables=tables,
            command=printable(shlex.join(["policyopt", *sys.argv[1:]])), fits=fits,
        )  # fmt: skip
    with output.writing(out):
        page.save(out)
    for text in page.content["notes"]:
        output.note(text)
    if verdict := page.content["verdict"]:
        output.say(verdict["headline"])
    output.say(f"wrote {out}, {len(page.html) / 1e6:.1f} MB: open it in a browser")


def _refuse(given: dict[str, Any], path: Path) -> None:
    """Refuse options that say nothing of what is shown."""
    for name, value in given.items():
        if value:
            raise input_error(name, "left out of such a page", f"given, with {path}", "Drop it.")
