"""``policyopt certify``: the cheapest policy of which rows that chose nothing show that a risk is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyopt._cli import options, output
from policyopt._cli.fit import foretell
from policyopt._cli.options import option
from policyopt._page.results import certificate_content
from policyopt.runtime._errors import BudgetError, input_error


def certify(
    cache: Path = options.CACHE,
    risk: list[str] = option(..., 'E.g. "drop<=1%"; may be repeated: all at once.'),
    confidence: str = option("95%", "With which a wrong claim is avoided."),
    budget: str | None = option(None, "The same as a risk cost<=BUDGET: 40% of the full model."),
    method: str | None = option(None, "Whose levels are tried; or a file of these. Default: auto."),
    policy: Path | None = option(None, "A policy or family file instead of a method."),
    budgets: str = option("30", f"Levels of the family that is fitted. {options.COUNTED}"),
    split: str = option("calibrate", "Rows of the test, which chose nothing.", "--split"),
    procedure: str | None = option(
        None,
        "binomial, ternary, selective, betting, hoeffding_bentkus, normal, crc. Default: by the losses.",
    ),
    testing: str = option(
        "pareto", "Order of the levels: pareto (by the fit), sequence, holm (none)."
    ),
    starts: int = option(1, "Places in the order of levels at which the test begins.", min=1),
    covers: str = option("blind", "request: levels may be chosen by the request; with --family."),
    cost_bound: float | None = option(None, "Most that a request may cost, of costs per row."),
    settings: list[str] | None = options.SETTINGS,
    out: Path = option(Path("policy.json"), "Policy file to write."),
    family: bool = option(False, "Write all levels that are shown: all hold together.", "--family"),
    report: Path | None = options.REPORT,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    seed: int = options.SEED,
    jobs: int = options.jobs(1, "1"),
    scheduler: str | None = options.SCHEDULER,
    style: output.Format = options.STYLE,
) -> None:
    """Certify a risk: write the cheapest policy of which rows that chose nothing show that it keeps it."""
    from policyopt._api import DEFAULT_METHOD
    from policyopt._certificates.certify import certify as certified
    from policyopt.runtime._experts import load_any

    held = options.out_policy(out)
    options.out_page(report)
    data = options.read_cache(cache)
    if policy is None and (method or "").endswith(".json"):
        method, policy = None, Path(method or "")
    if policy is not None and method is not None:
        raise input_error("--policy", "given without --method", policy, "Leave one out.")
    if covers == "request" and not family:
        step = "One level alone needs no choice: leave --covers out."
        allowed = "of a family that is written: --family"
        raise input_error("--covers request", allowed, "one policy", step)
    given: Any = method if policy is None else load_any(policy)
    if policy is None:
        foretell([method or DEFAULT_METHOD], 5_000, 1)
    title = f"{' and '.join(risk)} on {options.title(cache)}"
    with telling(style, procedure, report, title), output.progress("certifying"):
        found = certified(
            data, risk, confidence, budget=budget, method=given, budgets=budgets, split=split, cost=cost,
            seed=seed, procedure=procedure, testing=testing, starts=starts, covers=covers, cost_bound=cost_bound,
            utility=utility, **options.read_settings(settings),
        )  # fmt: skip
    if compared := found.policy.provenance.get("compared") if policy is None else None:
        told = f"tried by auto: {', '.join(one['method'] for one in compared)}"
        apart = "; routing is left out: --method routing tries it" * data.cost(cost).cascade
        output.note(told + apart)
    write(found, out, held, family, style)
    options.write_page(report, "certificate", found.records, found.certificate, title)


def write(found: Any, out: Path, held: str, family: bool, style: output.Format) -> None:
    """Write what was certified, and print it."""
    from policyopt.runtime._certificate import in_words

    with output.writing(out, held):
        if family and found.family is None:
            raise input_error("--family", "of levels", "expert policies", "Leave it out.")
        (found.family if family and found.family else found).save(out)
    for text in found.notes:
        output.note(text)
    records = [{**one, "policy": str(out)} for one in found.records]
    stated = (found.family if family and found.family else found.policy).provenance["certificate"]
    content = {"certificate": stated, "levels": records, "policy": str(out)}
    if output.print_data(style, content, records):
        return
    print_levels(records, stated["sense"] == "expectation")
    what = f"{len(found.family)} levels" if family else f"level {found.certificate['level']}"
    output.say(in_words(stated), f"wrote {what} to {out}")


def print_levels(records: Sequence[Mapping[str, Any]], in_the_mean: bool) -> None:
    """Print the levels of a test, those shown first."""
    output.print_panel(certificate_content(records, None, "", "", in_the_mean)["panels"][0])


@contextmanager
def telling(
    style: output.Format, procedure: str | None = None, report: Path | None = None, title: str = ""
) -> Iterator[None]:
    """Print the levels also where none is shown, and write their page."""
    try:
        yield
    except BudgetError as error:
        for text in getattr(error, "__notes__", ()):
            output.note(text)
        if error.levels and style is output.Format.table:
            print_levels(error.levels, procedure == "crc")
        if error.levels:
            options.write_page(
                report, "certificate", error.levels, None, title, str(error), procedure == "crc"
            )
        raise
