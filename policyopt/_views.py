"""Results as frames, plots and small tables: of each class its records, which are shown first, and its picture.

`runtime/_shown.py` gives results the methods that call this. docs/frames.md explains every column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial, singledispatch
from html import escape
from typing import Any

import numpy as np

from policyopt._abstain import RiskCoverage
from policyopt._cache.data import ExitData
from policyopt._certificates.certify import Certified
from policyopt._family import FittedFamily
from policyopt._frontier import Comparison, Frontier, threshold_fields, threshold_sets
from policyopt._intervals import with_interval
from policyopt._methods.fitted import Fitted
from policyopt._online.simulate import Simulation
from policyopt._optional import need
from policyopt._page.panels import chart, explanation_panels
from policyopt._page.results import simulation_content
from policyopt._replay import Replay
from policyopt._report import figures as draw
from policyopt._report.calibration import Calibration, reliability
from policyopt._report.explanation import Explanation
from policyopt._report.routes import Routes, draw_routes
from policyopt._study.exits import ExitMetrics
from policyopt._study.figures import draw_study
from policyopt._study.study import Study
from policyopt._table import Tables
from policyopt._tiers.choose import Planned
from policyopt._tuning import Tuned
from policyopt._verdict import Verdict
from policyopt.runtime._certificate import in_words
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._policy import ALWAYS, Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import Several
from policyopt.runtime._text import printable

Record = dict[str, Any]
_ROWS = 8  # of a table in a notebook
_LETTERS = 40  # of its cells
_MOST = 12  # lines of which each is named
_SIZE = (7.5, 4.6)  # inches of new axes


@dataclass(frozen=True)
class View:
    """How a result of one class is shown."""

    heading: str
    lists: Mapping[str, Callable[[], Iterable[Record]]]  # records by name, the usual ones first
    columns: str  # of the small table, divided by spaces
    draw: Callable[[Any], Any]  # into axes
    table: Callable[[], Iterable[Record]] | None = None  # what the small table is of, if not these


@singledispatch
def view(found: Any) -> View:
    """Return how a result is shown."""
    raise TypeError(f"nothing shows a {type(found).__name__}")


def frame(found: Any, of: str | None = None) -> Any:
    """Return records as a pandas frame: a row each, numbers in columns of their own."""
    lists = view(found).lists
    name = next(iter(lists)) if of is None else of
    check_one_of("of", name, tuple(lists), f"E.g. {next(iter(lists))}.")
    pandas = need("pandas", "fit", "for frames")
    made = pandas.DataFrame([flat(record) for record in lists[name]()])
    # What is not known of any row is no object.
    return made.astype(dict.fromkeys(made.columns[made.isna().all()], float))


def plot(found: Any, ax: Any = None, **look: Any) -> Any:
    """Draw a result into axes, new ones by default, and return them."""
    if ax is None:
        pyplot = need("matplotlib.pyplot", "fit", "for plots")
        ax = pyplot.subplots(figsize=_SIZE, layout="constrained")[1]
    view(found).draw(ax)
    ax.set(**look)
    return ax


def html(found: Any) -> str:
    """Return a heading and the main columns of a few records; whatever files say is escaped."""
    seen = view(found)
    records = [flat(r) for r in (seen.table or next(iter(seen.lists.values())))()]
    names = [n for n in seen.columns.split() if any(r.get(n) is not None for r in records)]
    lines = [f"<th>{escape(name)}</th>" for name in names]
    body = [[f"<td>{escape(_cell(r.get(n)))}</td>" for n in names] for r in records[:_ROWS]]
    rows = "".join(f"<tr>{''.join(line)}</tr>" for line in (lines, *body))
    more = f"<p>... {len(records) - _ROWS:,} more rows</p>" if len(records) > _ROWS else ""
    title = f"<b>{type(found).__name__}</b>: {escape(printable(seen.heading, 300))}"
    return f'<div class="policyopt"><p>{title}</p><table>{rows}</table>{more}</div>'


def flat(record: Mapping[str, Any]) -> Record:
    """Return a record whose values are single ones: places in lists and names in mappings end the columns' names.

    >>> flat({"exit_share": [0.25, 0.75], "streams": ["a", "b"], "thresholds": [1e30]})
    {'exit_share_0': 0.25, 'exit_share_1': 0.75, 'streams': 'a, b', 'threshold_0': inf}
    """
    out: Record = {}
    for name, value in record.items():
        if name == "mixture" and value:  # two sets of thresholds, and whom the second is for
            first, second = value["thresholds"]
            both = {"thresholds": first, "second_thresholds": second}
            out |= flat({**both, "second_share": value["share"]})
        elif name == "thresholds" or name == "second_thresholds":
            single = name.removesuffix("s")
            out |= {f"{single}_{k}": _bound(v) for k, v in enumerate(value or ())}
        elif isinstance(value, Mapping):
            out |= {f"{name}_{key}": v for key, v in value.items()}
        elif isinstance(value, (list, tuple)):
            if name == "active_exits" or any(isinstance(v, str) for v in value):
                out[name] = ", ".join(map(str, value))
            elif not any(isinstance(v, Mapping) for v in value):
                out |= {f"{name}_{k}": v for k, v in enumerate(value)}
        elif name not in ("mixture", "exit_share"):
            out[name] = value
    return out


def _bound(threshold: float | None) -> float | None:
    """Return a threshold, infinite where no score, or every score, is above it."""
    far = threshold is not None and abs(threshold) >= -ALWAYS
    return float(np.copysign(np.inf, threshold)) if far else threshold  # type: ignore[arg-type]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return printable(text, _LETTERS)


# fmt: off

def _lines(axes: Any, records: Iterable[Mapping[str, Any]], x: str, y: str, by: str = "", unit: str = "") -> None:
    """Draw y, with its interval where records have one, against x, a line for each value of `by`."""
    rows, far = list[Record](), list[tuple[Any, bool]]()
    for one in (one for one in records if one.get(x) is not None and one.get(y) is not None):
        name, finite = one.get(by, ""), bool(np.isfinite(one[y]))
        far += [] if finite else [(one[x], one[y] > 0)]
        rows.append({**one, "of": name if isinstance(name, str) else f"{by} {name:.3g}", y: one[y] if finite else None})
    named = [f"{n.replace('_', ' ')}{f' [{unit}]' if unit and 'cost' in n else ''}" for n in (x, y)]
    draw.draw_panel(axes, chart(rows, x, y, *named, by="of", kind="dots"))
    for at, never in far:  # thresholds that no score passes, or every one
        place, told = (at, 0.95 if never else 0.02), "never" if never else "always"
        axes.annotate(told, place, xycoords=("data", "axes fraction"), ha="center", fontsize=8)
    if x in ("exit", "level", "context", "trial"):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if 1 < len({row["of"] for row in rows}) <= _MOST:
        axes.legend(frameon=False, fontsize=8)


def _panel(axes: Any, panel: Mapping[str, Any]) -> None:
    """Draw the first view of a page's panel."""
    draw.draw_panel(axes, panel["views"][0][1])
    axes.legend(frameon=False, fontsize=8)


# --- records that classes do not hold as they are ------------------------------------------------------


def _middle(found: Frontier) -> list[Record]:
    """Return what a frontier's methods do at its middle budget."""
    asked = list(dict.fromkeys(r["target"] for r in found.records))
    return [r for r in found.records if r["target"] == asked[len(asked) // 2] and not r["seed"]]


def _against(found: Verdict) -> Iterable[Record]:
    """Return differences of quality at each budget, to the full model and to single exits."""
    for one in found.record["budgets"]:
        for name, to in (("the full model", "to_full"), ("single exits", "to_singles")):
            difference = with_interval("difference", *(one[to + end] for end in ("", "_low", "_high")))
            yield {"realised_cost": one["realised_cost"], "to": name, **difference}


def _did(record: Mapping[str, Any]) -> str:
    """Return what came of a policy on the rows of an explanation."""
    cost = f"mean cost {record['realised_cost']:.4g} {record['unit']}"
    more = "" if record["quality"] is None else f", quality {100 * record['quality']:.2f} %"
    return f"{record['policy']['method']} on {record['rows']:,} rows of {record['split']}, {cost}{more}"


def _explained(found: Explanation) -> Iterable[Record]:
    for one in found.record["exits"]:
        told: Record = {k: v for k, v in one.items() if k not in ("thresholds", "score")}
        yield told | dict(zip(("threshold", "second_threshold"), map(_bound, one["thresholds"]), strict=False))


def _given(found: Calibration) -> Iterable[Record]:
    """Return confidence and accuracy, by bin, of the answers that were given at the exits taken, by map."""
    taken = np.arange(len(found.exits)), np.searchsorted(found.path, found.exits)
    for name, one in found.seen.items():
        points = reliability(one.confidence[taken], one.correct[taken], kin=found.group)
        yield from ({"map": name, **point} for point in points)


def _exits_of(policy: Policy) -> Iterable[Record]:
    """Return a record per exit; of a mixture for both sets of thresholds, with the share of samples that have it."""
    second, names = policy.mixture.share if policy.mixture else 0.0, policy.names or [None] * policy.model_exits
    for share, thresholds in zip((1.0 - second, second), threshold_sets(policy), strict=False):
        for at, (k, bound) in enumerate(zip(policy.active_exits, [*thresholds.tolist(), None], strict=True)):
            head = {"exit": k, "name": names[k], "share": share, "cost": float(policy.costs[at])}
            yield {**head, "overhead": float(policy.overhead[at]), "threshold": _bound(bound)}


def _models(found: RoutingPolicy) -> Iterable[Record]:
    for m in found.active_exits:
        name = found.called(m)
        yield {"exit": m, "model": name, "cost": float(found.costs[m]), "first": name in found.asked_first}


def _fitted(found: Fitted) -> Record:
    worth, expected, policy = found.quality, found.expected, found.policy
    ends = policy.provenance.get("expected_quality_95") or (None, None)
    return {
        "method": found.method, "budget": found.budget, "unit": policy.unit, "rows": expected.rows,
        **with_interval("expected_cost", expected.cost, *expected.stated),
        **with_interval("expected_quality", None if np.isnan(worth) else worth, *ends), **threshold_fields(policy),
    }


def _policies(found: Several) -> Iterable[Record]:
    names: Any = getattr(found, "contexts", getattr(found, "names", ()))
    told = {n: getattr(found, n, None) for n in ("expected_costs", "budgets")}
    for i, policy in enumerate(found.policies):
        known = {n[:-1]: float(v[i]) for n, v in told.items() if v is not None}
        head = {found.role: i, "name": names[i] if names else None, "unit": found.unit}
        yield head | known | threshold_fields(policy)


def _risks(found: Certified) -> Iterable[Record]:
    for one in sorted(found.records, key=lambda r: r["cost"]):
        head = {name: value for name, value in one.items() if name != "risks"}
        yield from ({**head, "risk": risk, "value": v} for risk, v in one["risks"].items())


def _left(found: Replay) -> Iterable[Record]:
    for k in range(found.exits):
        left, known = found.exit == k, ~np.isnan(found.quality)
        columns = {"cost_left": found.cost[left], "quality_left": found.quality[left & known]}
        head = {"exit": k, "rows_left": int(left.sum()), "share_left": float(left.mean())}
        yield head | {name: float(a.mean()) if len(a) else None for name, a in columns.items()}


def _rows(found: Any, names: str) -> Iterable[Record]:
    """Return a record per row of the arrays that there are, (N,) or (N, K)."""
    columns = {n: a for n in names.split() if (a := getattr(found, n)) is not None}
    for i, row in enumerate(zip(*(np.asarray(a).tolist() for a in columns.values()), strict=True)):
        yield {"row": i, **dict(zip(columns, row, strict=True))}


def _measured(found: ExitData) -> Iterable[Record]:
    """Return what every exit costs and is worth on every split: one pass over the outputs."""
    tables, names = Tables(found), found.names or [None] * found.exits
    for split in found.split_names:
        table = tables.get(split, censored=found.censored)
        known = table.take(np.flatnonzero(table.valued & (not found.censored)))
        worth = known.quality.mean(axis=0).tolist() if len(known) else [None] * found.exits
        for k, cost in enumerate(table.mean_costs.tolist()):
            head = {"split": split, "exit": k, "name": names[k], "rows": len(table), "labelled": len(known)}
            yield {**head, "cost": cost, "unit": table.unit, "quality": worth[k]}


# --- what each class is: a heading, its records, columns of the small table, its picture -----------------

_SEEN = "exit prediction cost quality correct abstained group turn answerer confidence"
_show = view.register
_show(Frontier, lambda f: View(
    f"{len({r['method'] for r in f.records})} methods, costs in {f.unit}; at the middle budget:",
    {"records": lambda: f.records, "exits": lambda: f.exits, "bound": lambda: f.bound},
    "method budget realised_cost quality quality_low quality_high",
    lambda axes: (draw.draw_frontier(axes, f), axes.legend(frameon=False, fontsize=8)), lambda: _middle(f)))
_show(Comparison, lambda f: View(
    f"against {f.reference}, over {f.test}, at equal realised cost",
    {"records": lambda: f.records, "ranking": lambda: f.ranking, "pairs": lambda: f.pairs},
    "rank method quality difference difference_low difference_high holm_p group",
    lambda axes: (draw.draw_comparison(axes, f), axes.legend(frameon=False, fontsize=8)),
    lambda: [r for r in f.ranking if r["budget"] is None]))
_show(Verdict, lambda f: View(
    f.headline, {"budgets": lambda: f.record["budgets"]},
    "budget method realised_cost saving quality to_full to_full_low to_full_high to_singles",
    lambda axes: _lines(axes, _against(f), "realised_cost", "difference", "to", f.record["unit"])))
_show(Study, lambda f: View(
    f"{len(f.models)} models at {len(f.budgets)} budgets, costs in {f.unit}",
    {n: partial(getattr, f, n) for n in ("points", "models", "budgets", "pairs", "tests", "exits")},
    "model runs full_cost full_quality area area_low area_high rank",
    lambda axes: (draw_study(axes, f), axes.legend(frameon=False, fontsize=8)), lambda: f.models))
_show(Explanation, lambda f: View(
    _did(f.record), {"exits": lambda: _explained(f), "classes": lambda: f.record["classes"] or (), "rows": f.rows},
    "exit name cost threshold share_left cost_share quality_left quality",
    lambda axes: _panel(axes, explanation_panels(f)[0])))
_show(Routes, lambda f: View(
    _did(f.record), {"models": lambda: f.record["models"], "ways": lambda: f.record["ways"], "rows": f.rows},
    "model cost asked first last cost_share", lambda axes: draw_routes(axes, f.record)))
_show(Calibration, lambda f: View(
    f"{f.method} on {len(f.exits):,} rows of {f.split}; of those that leave:", {"records": lambda: f.records},
    "calibration exit rows ece ece_low ece_high gap",
    lambda axes: _lines(axes, _given(f), "confidence", "accuracy", "map"),
    lambda: [r for r in f.records if r["group"] == "leavers"]))
_show(Simulation, lambda f: View(
    f"{f.schedule.rounds:,} requests, costs in {f.unit}", {"records": lambda: f.records},
    "policy regret regret_low regret_high realised_cost quality",
    lambda axes: _panel(axes, simulation_content(f, "")["panels"][0])))
_show(RiskCoverage, lambda f: View(
    f"{len(f.risk):,} rows, area (AURC) {f.area:.4g}", {"rows": lambda: _rows(f, "coverage risk")},
    "coverage risk", lambda axes: draw.draw_risk_coverage(axes, f),
    lambda: [{"coverage": c, "risk": 1 - f.quality_at(c)} for c in (1.0, 0.95, 0.9, 0.8, 0.5)]))
_show(ExitMetrics, lambda f: View(
    f"each exit by itself, split {f.split}", {"exits": lambda: f.exits},
    "exit name cost quality quality_low quality_high ece overthinking",
    lambda axes: _lines(axes, f.exits, "cost", "quality", unit=f.exits[0]["unit"])))
_show(Certified, lambda f: View(
    in_words(f.certificate), {"records": lambda: _risks(f)}, "level cost risk value p_value certified",
    lambda axes: _lines(axes, _risks(f), "cost", "value", "risk", f.records[0]["unit"])))
_show(Tuned, lambda f: View(
    f"{f.method}, {f.objective}: {f.recommended}", {"history": lambda: f.history},
    "trial state value standard_error default", lambda axes: _lines(axes, f.history, "trial", "value")))
_show(Planned, lambda f: View(
    f"exits {f.plan.kept}, tiers of stages {f.plan.tier}, by {f.fitted.method}", {"compared": lambda: f.compared},
    "plan method accuracy cost met",
    lambda axes: _lines(axes, f.compared, "cost", "accuracy", "plan", f.fitted.policy.unit)))
_show(Fitted, lambda f: View(
    f"costs in {f.policy.unit}", {"records": lambda: [_fitted(f)]},
    "method budget expected_cost expected_cost_low expected_cost_high expected_quality",
    lambda axes: view(f.policy).draw(axes)))
_show(FittedFamily, lambda f: View(
    f"{f.policy.named()} of {f.method}, costs in {f.policy.unit}",
    {"levels": lambda: ({"level": i, **_fitted(part)} for i, part in enumerate(f.parts))},
    "level budget expected_cost expected_quality expected_quality_low expected_quality_high",
    lambda axes: _lines(axes, map(_fitted, f.parts), "expected_cost", "expected_quality", unit=f.policy.unit)))
_show(Policy, lambda f: View(
    f"{f.rule.name}, {f.exits} of {f.model_exits} exits, costs in {f.unit}", {"exits": lambda: _exits_of(f)},
    "exit name share cost threshold", lambda axes: _lines(axes, _exits_of(f), "exit", "threshold", "share")))
_show(Several, lambda f: View(
    f.named(), {f"{f.role}s": lambda: _policies(f)}, f"{f.role} name budget expected_cost threshold_0 threshold_1",
    lambda axes: _lines(axes, _policies(f), f.role, "expected_cost", unit=f.unit) if f.routes else _lines(
        axes, ({**one, f.role: i} for i, p in enumerate(f.policies) for one in _exits_of(p)),
        f.role, "threshold", "exit")))
_show(RoutingPolicy, lambda f: View(
    f"first of all {' or '.join(f.asked_first)}; costs in {f.unit}", {"models": lambda: _models(f)},
    "exit model cost first", lambda axes: _lines(axes, _models(f), "model", "cost", unit=f.unit)))
_show(Replay, lambda f: View(
    f"{len(f.exit):,} rows, mean cost {f.cost.mean():.4g}, mean quality {np.nanmean(f.quality):.4g}",
    {"rows": lambda: _rows(f, _SEEN), "exits": lambda: _left(f)}, "exit rows_left share_left cost_left quality_left",
    lambda axes: _lines(axes, _left(f), "exit", "share_left"), lambda: _left(f)))
_show(ExitData, lambda f: View(
    f"{f.kind}, {f.exits} exits, {f.classes} classes, costs in {f.cost().unit}", {"exits": lambda: _measured(f)},
    "split rows", lambda axes: _lines(axes, _measured(f), "cost", "quality", "split", f.cost().unit),
    lambda: [{"split": name, "rows": len(f.rows(name)[1])} for name in f.split_names]))
