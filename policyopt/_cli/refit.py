"""``policyopt refit``: a policy that keeps its budget on recent rows, and is certified on others of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._api import cost_for, fit, utility_for
from policyopt._cache.data import POOL, ExitData
from policyopt._certificates.risks import KINDS, Risk
from policyopt._cli import options, output
from policyopt._cli.certify import telling, write
from policyopt._cli.fit import columns_of, describe
from policyopt._cli.options import option
from policyopt._methods.base import FEW_ROWS
from policyopt._methods.registry import make_method
from policyopt._online.drift import refit as fit_anew
from policyopt._table import Tables
from policyopt.runtime._certificate import certificate_of
from policyopt.runtime._errors import BudgetError, input_error
from policyopt.runtime._experts import load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._routing import RoutingPolicy, routing_to_dict


def refit(
    cache: Path = options.CACHE,
    recent: str = option("recent", "Recent rows, all exits run: a split of CACHE, or a cache."),
    policy: Path | None = option(None, "Policy file whose method is fitted anew."),
    level: str | None = options.LEVEL,
    method: str | None = option(None, "A method, in the place of --policy."),
    budget: str | None = option(
        None,
        "Most mean cost on recent rows (default: the policy's); with --certify several: 40%,60%.",
    ),
    certify: list[str] | None = option(
        None, 'Risk to show on recent rows that the refit has not read: "drop<=1%"; repeatable.'
    ),
    confidence: str = option("95%", "With which a wrong claim is avoided."),
    cost_bound: float | None = option(None, "Most that a request may cost, of costs per row."),
    out: Path = option(Path("policy.json"), "Policy file to write."),
    cost: str | None = options.COST,
    seed: int = options.SEED,
    since: str | None = options.SINCE,
    last: str | None = options.LAST,
    style: output.Format = options.STYLE,
) -> None:
    """Fit a policy anew for recent rows: on split `fit`, and the outputs of recent rows, no label of which is read.

    A routing policy is fitted on CACHE alone, as its imported log is, with the budget and the exploration that it had.
    With --certify others of them test it: those with a label, where the risk needs some, else half. Of several budgets
    the cheapest that is shown is taken. Where none is: exit code 3, and how many more rows would do.
    """
    from policyopt._certificates.certify import certify as certified  # which loads scipy

    held, limits = options.out_policy(out), (budget or "").split(",")
    if (policy is None) == (method is None):
        raise input_error("--policy", "given, or --method", "both or none", "Give one of the two.")
    if len(limits) > 1 and not certify:
        raise input_error("--budget", "one, without --certify", budget, "Leave the others out.")
    given: Any = options.at_level(make_method(method) if method else load_any(policy or ""), level)
    data, worth = options.read_cache(cache, since=since, last=last), None
    if isinstance(given, RoutingPolicy):
        _routed(given, data, budget, cost, seed, out, held, style)
        return
    if policy is not None:
        cost, worth = cost_for(given, data, cost), utility_for(given, data)[0]
    rows, split = _rows(recent, data, since, last)
    read, tested = _parts(rows, split, certify) if certify else (split, "")
    labelled = options.make_tables(data, cost, ("fit",), worth).get("fit")
    tables = Tables(rows, cost, utility=worth if certify else None)
    table, fits, refused = tables.get(read), [], None
    with output.progress("fitting"):
        for limit in limits:
            try:
                fits.append(fit_anew(given, labelled, table, limit or None, seed))
            except BudgetError as error:
                refused = error
    if refused is not None and not fits:
        raise refused
    output.note(f"fitted on {len(table):,} rows '{read}', outputs only")
    if not certify:
        lost = policy is not None and certificate_of(given) is not None
        said = "the new policy carries no certificate, as the old one did; see --certify"
        _save(fits[0], out, held, style, [said] * lost)
        return
    half = ": half, so of rows that you add half will be, too" * tested.endswith("[50%:]")
    output.note(f"tested on '{tested}'{half}")
    levels = {one.expected.cost: one.policy for one in fits}
    costs = np.array(sorted(levels))
    family = PolicyFamily(tuple(levels[c] for c in costs.tolist()), costs)
    with telling(style):
        found = certified(
            rows, certify, confidence, method=family, split=tested, seed=seed, tables=tables,
            cost_bound=cost_bound, starts=len(costs) if len(certify) > 1 else 1,  # a claim of cost fails at the dearest
        )  # fmt: skip
    write(found, out, held, False, style)


def _routed(
    given: RoutingPolicy, data: ExitData, budget: str | None, cost: str | None, seed: int, out: Path,
    held: Any, style: output.Format,
) -> None:  # fmt: skip
    """Fit a routing policy anew and write it."""
    limit, soft = budget or given.provenance.get("budget"), given.provenance.get("settings")
    soft = soft if isinstance(soft, dict) else {}
    if limit is None:
        raise input_error("--budget", "given, where the policy has none", "none", "E.g. 40%.")
    if given.names != data.names or given.unit != data.cost().unit:
        allowed = f"of the policy's models: {', '.join(given.names) or given.model_exits}, in {given.unit}"
        raise input_error("cache", allowed, ", ".join(data.names) or data.exits, "Is it its log?")
    served = data.metadata.get("policies") if data.censored else None
    if served and routing_to_dict(given)["sha256"] not in served:
        output.note(
            "the log is of another policy than --policy: budget and exploration are of this"
        )
    output.tell_exploring(given)
    if given.needs_query and data.censored:
        output.note(
            "query features of logs are not used: the new policy is asked without (policy.start(number))"
        )
    named = cost if data.censored else cost_for(given, data, cost)
    fitted = fit(
        data, limit, "routing", explore=given.explore, seed=seed, cost=named, soft=soft.get("soft", 1.0),
        utility=utility_for(given, data)[0],
    )  # fmt: skip
    stated: Any = given.provenance.get("expected_quality")
    high = fitted.policy.provenance["expected_quality_95"][1]  # what a log tells is uncertain
    less = not budget and isinstance(stated, float) and high < stated
    said = [f"expected quality {100 * fitted.quality:.2f} % is below {100 * stated:.2f} %, which --policy states: keep "
            "that, or first hold both against rows of all models (evaluate)"] if less else []  # fmt: skip
    _save(fitted, out, held, style, said)


def _save(
    fitted: Any, out: Path, held: Any, style: output.Format, said: Sequence[str] = ()
) -> None:
    """Write a policy and tell what it is."""
    with output.writing(out, held):
        fitted.save(out)
    for remark in [*said, *fitted.policy.provenance.get("notes", [])]:
        output.note(remark)
    record = describe(fitted, str(out))
    output.print_records([record], style, columns_of(record))


def _rows(text: str, data: ExitData, since: str | None, last: str | None) -> tuple[ExitData, str]:
    """Return the data, and the split or part of one, that a text names: of the cache, or of another."""
    name, mark, part = text.partition("[")
    if name in data.split_names:
        return data, text
    there = Path(name).is_dir() or options.address_of(name)
    other = options.read_cache(Path(name), since=since, last=last) if there else None
    names = () if other is None else (POOL,) if other.pooled else other.split_names
    if other is None or len(names) != 1:
        allowed = f"one of {', '.join(data.split_names)}, or a cache of one split"
        step = "Import them: policyopt import recent=FILE --out RECENT; then --recent RECENT."
        raise input_error("--recent", allowed, text, step)
    return other, names[0] + mark + part


def _parts(data: ExitData, split: str, risks: list[str]) -> tuple[str, str]:
    """Return which of the rows a refit reads, and which test it."""
    if any(KINDS[Risk.parse(text).name].labels for text in risks):
        none, some = f"{split}[unlabelled]", f"{split}[labelled]"
        if not len(data.rows(some)[1]):
            step = "Label some, drawn at random; disagreement and cost need none."
            raise input_error("--certify", "of recent rows with labels", "rows without", step)
        if len(data.rows(none)[1]) >= FEW_ROWS:
            return none, some
    return f"{split}[:50%]", f"{split}[50%:]"
