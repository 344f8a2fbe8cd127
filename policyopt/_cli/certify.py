"""``policyopt certify``: the cheapest policy of which rows that chose nothing show that a risk is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policyopt._cli import options, output
from policyopt._cli.fit import foretell
from policyopt._cli.options import option
from policyopt._cli.output import number, percent, shown
from policyopt.runtime._errors import input_error


def certify(
    cache: Path = options.CACHE,
    risk: list[str] = option(..., 'E.g. "drop<=1%"; may be repeated: all at once.'),
    confidence: str = option("95%", "With which a wrong claim is avoided."),
    budget: str | None = option(None, "The same as a risk cost<=BUDGET: 40% of the full model."),
    method: str | None = option(None, "Whose levels are tried. Default: auto."),
    policy: Path | None = option(None, "A policy or family file instead of a method."),
    budgets: str = option("30", f"Levels of the family that is fitted. {options.COUNTED}"),
    split: str = option("calibrate", "Rows of the test, which chose nothing.", "--split"),
    procedure: str | None = option(
        None, "binomial, ternary, betting, hoeffding_bentkus, normal. Default: by the losses."
    ),
    starts: int = option(1, "Places in the order of levels at which the test begins.", min=1),
    cost_bound: float | None = option(None, "Most that a request may cost, of costs per row."),
    settings: list[str] | None = options.SETTINGS,
    out: Path = option(Path("policy.json"), "Policy file to write."),
    family: bool = option(False, "Write all levels that are shown: all hold together.", "--family"),
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    seed: int = options.SEED,
    style: output.Format = options.STYLE,
) -> None:
    """Certify a risk: write the cheapest policy of which rows that chose nothing show that it keeps it."""
    from policyopt._api import DEFAULT_METHOD
    from policyopt._certificates.certify import certify as certified
    from policyopt._progress import progress_callback
    from policyopt.runtime._experts import load_any

    held = options.out_policy(out)
    data = options.read_cache(cache)
    if policy is not None and method is not None:
        raise input_error("--policy", "given without --method", policy, "Leave one out.")
    given: Any = method if policy is None else load_any(policy)
    if policy is None:
        foretell([method or DEFAULT_METHOD], 5_000, 1)
    with output.progress("certifying") as step, progress_callback(step):
        found = certified(
            data, risk, confidence, budget=budget, method=given, budgets=budgets, split=split, cost=cost,
            seed=seed, procedure=procedure, starts=starts, cost_bound=cost_bound, utility=utility,
            **options.read_settings(settings),
        )  # fmt: skip
    write(found, out, held, family, style)


def write(found: Any, out: Path, held: str, family: bool, style: output.Format) -> None:
    """Write what was certified, and print it."""
    with output.writing(out, held):
        (found.family if family else found).save(out)
    for text in found.notes:
        output.note(text)
    records = [{**one, "policy": str(out)} for one in found.records]
    content = {"certificate": found.certificate, "levels": records, "policy": str(out)}
    if output.print_data(style, content, records):
        return
    columns: output.Columns = {"level": "level", "cost": shown("cost", number)}
    for name in records[0]["risks"]:
        text = number if name.startswith("cost") else percent
        columns[name] = lambda r, name=name, text=text: text(r["risks"][name])
    columns["p-value"] = shown("p_value", number)
    columns["certified"] = lambda r: "yes" if r["certified"] else ""
    output.print_table(records, columns, title="levels in the order of the test, risks on its rows")
    output.say(told(found.certificate), _wrote(found, out, family))


def _wrote(found: Any, out: Path, family: bool) -> str:
    what = f"{len(found.family)} levels" if family else f"level {found.certificate['level']}"
    return f"wrote {what} to {out}"


def told(certificate: dict[str, Any]) -> str:
    """Return a certificate in plain words."""
    sure = f"{100 * certificate['confidence']:g} %"
    kind = "asymptotically, " if certificate["asymptotic"] else ""
    return (
        f"{kind}with {sure} confidence: {certificate['claim']} on requests like the {certificate['n']:,} "
        f"{certificate['unit']} of split '{certificate['split']}' (p = {certificate['p_value']:.3g}, "
        f"{certificate['procedure']}). Void: {certificate['void']}."
    )
