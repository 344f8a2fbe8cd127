"""Pages of a study, a simulation, a certificate, and of what a policy wrote while serving."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from platform import python_version
from statistics import fmean
from typing import Any

import numpy as np

from policyopt._cache.decision_log import Log, is_log
from policyopt._certificates.risks import Risk
from policyopt._costs import parse_budget
from policyopt._frontier import Frontier, means_over, over_seeds
from policyopt._intervals import mean_interval, with_interval
from policyopt._online.simulate import Simulation, interval
from policyopt._optional import release
from policyopt._page import panels as draw
from policyopt._page.panels import chart, heat, panel, percent, rule
from policyopt._report.calibration import calibration_records, observe
from policyopt._report.explanation import Explanation
from policyopt._report.routes import Routes
from policyopt._study.study import Study
from policyopt._table import Table, known_rows
from policyopt._verdict import verdict as judged
from policyopt.runtime._certificate import in_words
from policyopt.runtime._drift import DriftWatch
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.serving import MAX_BYTES, Online
from policyopt.runtime._risk_monitor import RiskMonitor

_POINTS, _LEAST, _WINDOWS, _MANY, _CLAIMS, _SOME = 100, 25, 12, 20, 6, 4  # drawn of each at most
_STATED = ("confidence", "procedure", "testing", "n", "split", "cache", "rows", "policy")
Seen = tuple[list[Any], dict[str, Any], str]  # panels of a file, its verdict, and what it is


def page(
    kind: str, title: str, subtitle: str, panels: Sequence[Any], verdict: Any = None, notes: Sequence[str] = (),
    **facts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return what a page holds; the command that made it is filled in by whoever writes it."""
    versions = {"policyopt": release(), "numpy": np.__version__, "python": python_version()}
    made = {"command": "", "versions": versions, "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    made |= {"facts": [[of.replace("_", " "), str(value)] for of, value in facts.items()]}
    return {
        "kind": kind, "title": title, "subtitle": subtitle, "verdict": verdict, "notes": list(notes), "explorer": None,
        "made": made, "panels": list(panels),
    }  # fmt: skip


def _verdict(badge: str, pays: bool | None, headline: str, *sentences: str) -> dict[str, Any]:
    headline = headline[:1].upper() + headline[1:]
    return {"badge": badge, "pays": pays, "headline": headline, "sentences": list(sentences)}


# --- what a policy does -----------------------------------------------------------------------


def explanation_content(
    found: Explanation | Routes, title: str, table: Table, samples: Any = None
) -> dict[str, Any]:
    """Return the page of an explanation, its calibration with it where answers are right or wrong."""
    record, notes = found.record, list(found.record["notes"])
    told = f"{record['rows']:,} rows of {record['split']}, costs in {record['unit']}"
    if isinstance(found, Routes):
        return page("explain", title, told, draw.routes_panels(found), None, notes)
    panels = draw.explanation_panels(found, table.class_names, samples, places_in_cache(table))
    try:
        table = known_rows(table).built_for(found.policy)
        seen = observe(table, found.policy.answer)
        columns = seen.confidence, seen.correct, found.found.exit
        path = found.policy.active_exits
        records = calibration_records("none", seen, found.found.exit, path, table.group)
        panels += draw.calibration_panels(records, {"none": columns}, table.group)
    except InputError as error:
        notes.append(f"nothing on calibration: {error}")
    return page("explain", title, told, panels, None, notes)


def places_in_cache(table: Table) -> tuple[Any, str]:
    """Return the numbers of the rows with labels where the cache holds them, from 0, and of what: pool, or split."""
    known = known_rows(table)
    at = np.arange(len(known)) if known.places is None else known.places
    return at, "the pool" if table.pool else table.split.partition("[")[0]


def curve_content(frontier: Frontier, title: str) -> dict[str, Any]:
    """Return the page of methods at several budgets, best first by the mean at equal cost, with the verdict."""
    found = [{**group[0], **means_over(group)} for group in over_seeds(frontier.records)]
    first, full, areas = frontier.exits[0], frontier.exits[-1], dict[str, float]()
    grid = sorted({one["budget"] or one["realised_cost"] for one in found})
    for method in dict.fromkeys(one["method"] for one in found):
        mine = sorted(
            (one["realised_cost"], one["quality"]) for one in found if one["method"] == method
        )
        areas[method] = float(
            np.interp(grid, *zip(*mine, strict=True), left=first["quality"]).mean()
        )
    order = sorted(areas, key=lambda method: -areas[method])
    found.sort(key=lambda one: (order.index(one["method"]), one["realised_cost"]))
    found = [{**one, "saved": 1 - one["realised_cost"] / full["cost"]} for one in found]
    word = "quality" if frontier.graded else "accuracy"
    facts = {"word": word, "unit": frontier.unit, "count": len(order), "best": order[0]}
    marks = {"budget": [one["budget"] or one["realised_cost"] for one in found]}
    shown = panel("curve", facts, found, found, of=marks)
    x, y = ([one[of] for one in frontier.exits] for of in ("cost", "quality"))
    shown["figure"]["data"].append(draw.line(x, y, "one exit for all", draw.GREY, mode="markers"))
    told = judged(frontier)
    said = {"pays": told.pays, "headline": told.headline, "sentences": list(told.sentences)}
    subtitle = f"{len(order)} methods, costs in {frontier.unit}"
    return page("curve", title, subtitle, [shown], said, [*frontier.notes, *told.notes])


# --- a study ----------------------------------------------------------------------------------


def study_content(study: Study, title: str = "Models side by side") -> dict[str, Any]:
    """Return the page of a study: which model to deploy at a budget, and how sure that is."""
    names, word = [one["model"] for one in study.models], "quality" if study.graded else "accuracy"
    facts = {"word": word, "unit": study.unit, "count": len(names), "best": names[0]}
    runs, fields = dict[Any, list[Any]](), ("realised_cost", "quality", "quality_low", "quality_high")  # fmt: skip
    for one in study.points:
        runs.setdefault((one["model"], one["budget"]), []).append(one)
    rows = [
        {"model": m, **{of: fmean(one[of] for one in mine) for of in fields}} for (m, _), mine in runs.items()
    ]  # fmt: skip
    rows.sort(key=lambda one: one["realised_cost"])
    rows += [  # of one exit, without a policy
        {"model": one["model"], "realised_cost": one["full_cost"], "quality": one["full_quality"]}
        for one in study.models if not any(row["model"] == one["model"] for row in rows)
    ]  # fmt: skip
    deploy = [
        {"budget": one["budget"], "model": m, "quality": q, "cost": one["cost"][m],
         "behind": one["quality"][one["best"]] - q, "may": "yes" if m in one["contenders"] else ""}
        for one in study.budgets for m, q in sorted(one["quality"].items(), key=lambda of: -of[1])
    ]  # fmt: skip
    rows += [{"model": one["model"], "budget": one["budget"], "gap": -one["behind"]} for one in deploy]  # fmt: skip
    rows.sort(key=lambda one: names.index(one["model"]))
    # Who may be the best at a budget is of one group; all others are each of their own.
    at = [one["budget"] for one in deploy]
    groups = [at.index(one["budget"]) if one["may"] else -1 - i for i, one in enumerate(deploy)]
    pairs = [
        {**one, "pair": f"{one['better']} > {one['worse']}", "rows": "shared" if one["paired"] else "other",
         "counts": ", ".join(map(str, one["runs"]))}
        for one in sorted(study.pairs, key=lambda one: (one["holm_p"], one["p"]))
    ]  # fmt: skip
    told = [one for one in study.tests if one["test"]]
    tests = [{**one, "letters": ", ".join(map(" ".join, one["groups"].items()))} for one in told]
    panels = [panel("frontiers", facts, study.models, rows)]
    panels.append(panel("deploy", facts, deploy, of={"budget": at, "group": groups}))
    if pairs:
        apart = sum(pair["holm_p"] <= 1 - study.confidence for pair in pairs)
        more = {"apart": apart, "count": len(pairs)}
        panels.append(panel("pairs", facts | more, pairs, pairs[:_MANY]))
    panels += [panel("tests", facts, tests)] if tests else []
    subtitle = f"{len(names)} models at {len(study.budgets)} budgets, costs in {study.unit}"
    sure = percent(study.confidence, 0)
    return page("study", title, subtitle, panels, _deploy(study, word), study.notes, certainty=sure)


def _deploy(study: Study, word: str) -> dict[str, Any]:
    """Return which model at which budgets, with what certainty."""
    sure, sentences = f"with {percent(study.confidence, 0)} certainty", list[str]()
    alike = groupby(study.budgets, lambda one: one["winner"] or frozenset(one["contenders"]))
    for key, neighbours in alike:  # of which the same is told
        at = list(neighbours)
        ends = " to ".join(dict.fromkeys(f"{one['budget']:.4g}" for one in (at[0], at[-1])))
        names = at[0]["contenders"]
        few = ", ".join(names[:_SOME]) + f" and {len(names) - _SOME} more" * (len(names) > _SOME)
        told = f"one of {few}; which, cannot be told"
        if not names[1:]:
            told = f"{few} leads, which may be chance, as so many budgets are looked at"
        if isinstance(key, str):
            leads = [100 * one["lead"] for one in at if one["lead"] is not None]
            apart = " to ".join(dict.fromkeys(f"{f(leads):.2f}" for f in (min, max) if leads))
            told = f"{key}, {apart} points of {word} ahead of the next, {sure}" if leads else key
        sentences.append(f"At {ends} {study.unit}: {told}.")
    won = [one["winner"] for one in study.budgets]
    best = max(filter(None, won), key=won.count, default=None)
    told = f"Deploy {best}: it is shown to be the best at {won.count(best)} of {len(won)} budgets."
    told = told if best else "No model is shown to be the best at any budget."
    return _verdict("Winner" if best else "Cannot be told", True if best else None, told, *sentences)  # fmt: skip


# --- a simulation, a certificate --------------------------------------------------------------


def simulation_content(found: Simulation, title: str) -> dict[str, Any]:
    """Return the page of a simulation: regret and cost over time, and what was played."""
    order, rows, views = sorted(found.records, key=lambda one: one["regret"]), [], []
    for policy in (one["policy"] for one in order):
        tally = found.metrics[policy]
        mean, half = interval(tally.course["regret"])
        at, paid = (np.insert(of, 0, 0.0) for of in (tally.rounds, tally.course["cost"].mean(axis=1)))  # fmt: skip
        since = np.maximum(np.arange(len(mean)) + 1 - max(len(mean) // _WINDOWS, 1), 0)
        cost = (paid[1:] - paid[since]) / (at[1:] - at[since])
        for t, m, h, c in zip(tally.rounds.tolist(), mean, half, cost, strict=True):
            own = with_interval("regret", m, m - h, m + h)
            rows.append({"policy": policy, "request": t, "cost": c, **own})
        shares = tally.shares().T
        if len(shares) > 1 and len(views) < _WINDOWS:
            arms = found.labels if len(found.labels) == len(shares) else np.arange(len(shares))
            text = [list(map(percent, arm)) for arm in shares.tolist()]
            names = [f"{arm:.3g}" for arm in arms]
            views.append([policy, heat(shares, text, tally.rounds, names, "request", "arm")])
    moves = len(order[0]["streams"]) > 1 and order[0]["schedule"] != "stationary"
    changes, first = [rule(at) for at in found.schedule.changes], order[0]
    limit = [] if found.budget is None else [rule(found.budget, "budget", "y")]
    told = [
        {**one, "off": one["budget"] and one["realised_cost"] / one["budget"] - 1,
         "moving_regret": one["moving_regret"] if moves else None,
         "recovered": ", ".join("never" if r is None else f"{r:,}" for r in one["recovery"]) or None}
        for one in order
    ]  # fmt: skip
    word = "accuracy" if first["quality"] == first["accuracy"] else "quality"
    facts = {**first, "best": first["policy"], "word": word}
    facts["arm"] = "threshold" if first["arms_unit"] == "threshold" else first["unit"]
    rules = {"Regret": changes, "Cost": changes + limit}
    panels = [panel("simulation", facts, told, rows, rules=rules)]
    panels += [panel("arms", {}, views=views)] if views else []
    course = f"{first['schedule']} over {', '.join(first['streams'])}"
    subtitle = f"{first['rounds']:,} requests, {first['repetitions']} repetitions, {course}"
    names = "method", "reward", "reveal", "delay", "label_share", "offload_at", "seed"
    more = {of: first[of] for of in names if first[of] not in (None, [])}
    if found.budget is not None:
        more["budget"] = f"{found.budget:.4g} {first['unit']}"
    more["overhead"] = " to ".join(f"{x:g}" for x in dict.fromkeys(first["overhead"]))
    arms = first["arms"]
    more["arms"] = f"{len(arms)}, {facts['arm']} {arms[0]:.3g} to {arms[-1]:.3g}"
    return page("simulate", title, subtitle, panels, None, found.notes, **more)


def certificate_content(
    records: Sequence[Mapping[str, Any]], stated: Mapping[str, Any] | None, title: str, why: str = "",
    in_the_mean: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return the page of a certificate, or of why there is none: every level that was tried, and its risks."""
    levels = [
        {**one, "shown": "shown" if one["certified"] else "not shown",
         "told": "; ".join(
             f"{name}: {f'{value:.4g}' if name.startswith('cost') else percent(value, 2)}"
             for name, value in one["risks"].items()
         )}
        for one in sorted(records, key=lambda one: not one["certified"])
    ]  # fmt: skip
    unit, passed, views = levels[0]["unit"], [one for one in levels if one["certified"]], []
    for name in [*levels[0]["risks"]][:_CLAIMS]:
        own = [{**one, "risk": one["risks"][name]} for one in levels]
        claim = Risk.parse(name[: name.index(" ", name.index("<"))] if " " in name else name)
        lines = [] if claim.share else [rule(claim.most, "allowed", "y")]
        look = {"by": "shown", "kind": "points", "shapes": lines, "colours": ("#0072B2", "#8c8c8c")}
        views.append([name, chart(own, "cost", "risk", f"expected cost [{unit}]", name, **look)])
    cheapest = f"{min(one['cost'] for one in passed):.4g} {unit}" if passed else "-"
    facts = {"tried": len(levels), "passed": len(passed), "cheapest": cheapest, "unit": unit}
    in_the_mean = in_the_mean or (stated or {}).get("sense") == "expectation"
    facts["p"] = "of what is allowed" if in_the_mean else "p-value"
    rules = {"p-values": [rule(stated["tested_at"], "at most", "y")] if stated else []}
    verdict = _verdict("Not shown", False, "No level is shown to keep the risk.", why)
    if stated:
        told = f"{len(passed)} of {len(levels)} levels; the cheapest costs {cheapest}."
        told = f"Shown to keep {stated['claim']}: {told}", f"Certified {in_words(dict(stated))}"
        verdict = _verdict("Certified", True, *told)
    panels = [panel("levels", facts, levels, levels, rules=rules, views=views)]
    facts = {of: value for of, value in (stated or {}).items() if of in _STATED}
    return page("certify", title, f"{len(levels)} levels tried", panels, verdict, **facts)


# --- what a policy wrote while serving --------------------------------------------------------


def monitor_content(paths: Sequence[Path], budget: str | float | None = None) -> dict[str, Any]:
    """Return the page of decision logs and of saved states: online policies, drift watches, risk monitors.

    `budget`: that of the logs' policies, in their unit.
    """
    notes, panels, seen = list[str](), [], []
    for i, path in enumerate(paths):
        if not is_state(path):
            step = "DecisionLog, `policyopt watch` and Online.save write such files."
            raise input_error("FILE", "a decision log or a saved state", path, step)
        seen.append(_log(path, budget, notes) if is_log(path) else _STATES[_form(path)](path))
        end = {"id": f"-{i}", "title": f" ({path.name})"} if paths[1:] else {}
        panels += [{**one, **{of: one[of] + text for of, text in end.items()}} for one in seen[-1][0]]  # fmt: skip
    order = (False, True, None)  # what is wrong first
    first, *others = sorted((one for _, one, _ in seen), key=lambda one: order.index(one["pays"]))
    more = [text for one in others for text in (one["headline"], *one["sentences"])]
    verdict = {**first, "sentences": [*first["sentences"], *more]}
    files, told = ", ".join(path.name for path in paths), "; ".join(said for *_, said in seen)
    return page("monitor", "Monitor", told, panels, verdict, notes, files=files)


def is_state(path: Path) -> bool:
    """Whether a page of a monitor shows such a file."""
    return is_log(path) or (path.suffix == ".json" and path.is_file() and _form(path) in _STATES)


def _form(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return content.get("format") if isinstance(content, dict) else None


def _log(path: Path, budget: Any, notes: list[str]) -> Seen:
    """Return the panels of a decision log: cost against budget, who answers, what came back."""
    log = Log(path)
    if not log.requests:
        raise input_error("FILE", "a log of one request or more", path, "Serve some.")
    notes += log.notes
    head, asked = log.head, [content for _, content in log.requests.values()]
    names = head["names"] or [f"model {m}" for m in range(len(head["costs"]))]
    unit, n = head["unit"], len(asked)
    starts = np.arange(0, n, max(-(-n // _POINTS), min(_LEAST, n)))
    ends = np.append(starts[1:], n)

    def course(y: str, values: Any, **more: Any) -> list[dict[str, Any]]:
        """Return means of windows of requests in turn."""
        sums = np.add.reduceat(np.asarray(values, float), starts) / (ends - starts)
        return [{"request": t, y: v, **more} for t, v in zip(ends.tolist(), sums.tolist(), strict=True)]  # fmt: skip

    cost = np.array([float(sum(one["cost"])) for one in asked])
    mean, alarms, rules = mean_interval(cost), list[dict[str, Any]](), []
    promise, most = "No budget is known: --budget states it.", float(sum(head["costs"]))
    if budget is not None:
        budget = parse_budget(budget, np.array([most]), unit)
        promise, rules = "Dashed: the budget.", [rule(budget, "budget", "y")]
        if 0 < budget < most and cost.max() <= most:
            if alarm := RiskMonitor(budget, low=0.0, high=most).update(cost):
                between = " to ".join(f"{end:.4g}" for end in alarm.risk)
                text = f"Over budget, shown after {alarm.losses:,} requests: mean cost {between} {unit}."
                alarms.append({"alarm": "over budget", "at": alarm.losses, "text": text})
            promise += " While it is kept, an alarm comes with a chance of 5 % at most, ever."
    facts = {"unit": unit, "window": int(ends[0]), "requests": n, "mean": mean.mean, "promise": promise}  # fmt: skip
    facts["limit"] = "no alarm" if not alarms else f"alarm at request {alarms[0]['at']:,}"
    rules += [rule(one["at"], one["alarm"]) for one in alarms]
    rows = course("cost", cost, of="in turn")
    rows += [{"request": t, "cost": cost[:t].mean(), "of": "all so far"} for t in ends.tolist()]
    panels = [panel("budget", facts, alarms, rows, rules={"Cost": rules})]
    last = np.array([one["called"][-1] for one in asked])
    right = np.array([_right(one, log.known.get(id)) for id, one in zip(log.requests, asked, strict=True)])  # fmt: skip
    known, rows, models = ~np.isnan(right), [], []
    for m, model in enumerate(names):
        called, mine = np.array([m in one["called"] for one in asked]), last == m
        rows += course("answered", mine, model=model) + course("asked", called, model=model)
        told = {"asked": called.mean(), "answered": mine.mean(), "cost": head["costs"][m]}
        good = right[known & mine].mean() if (known & mine).any() else None
        models.append({"model": model, "right": good, **told})
    facts["shares"] = ", ".join(f"{one['model']} {percent(one['answered'])}" for one in models)
    panels.append(panel("answers", facts, models, rows, colours=draw.shades(len(names))))
    if known.any():
        told = course("share", known, of="have feedback")
        good = course("share", np.where(known, right, 0.0), of="right, of these")
        for one, of in zip(good, [*told], strict=True):
            told += [{**one, "share": one["share"] / of["share"]}] if of["share"] else []
        facts |= {"share": percent(known.mean()), "right": percent(right[known].mean())}
        panels.append(panel("feedback", facts, (), told))
    said = f"mean cost {mean.mean:.4g} [{mean.low:.4g}, {mean.high:.4g}] {unit} over {n:,} requests"
    over = bool(alarms) or (budget is not None and mean.low > budget)
    fine = None if budget is None or (mean.mean > budget and not over) else not over
    verdict = _keeps(fine, budget, said, *(one["text"] for one in alarms))
    return panels, verdict, f"{path.name}: {n:,} requests of {len(names)} models"


def _right(asked: Mapping[str, Any], known: Mapping[str, Any] | None) -> float:
    """Return whether a logged answer was right; NaN where nobody said."""
    if known is None or known.get("label") == -1:
        return np.nan
    return float(known["correct"][-1] if "correct" in known else known["label"] == asked["answer"])


def _keeps(fine: bool | None, budget: float | None, said: str, *more: str) -> dict[str, Any]:
    of = "a budget" if budget is None else f"its budget of {budget:.4g}"
    told = {True: "Keeps", False: "Does not keep", None: "Cannot be told to keep"}[fine]
    badge = {True: "Keeps its budget", False: "Over budget", None: "Cannot be told"}[fine]
    return _verdict(badge, fine, f"{told} {of}: {said}.", *more)


def _online(path: Path) -> Seen:
    """Return the panel of a saved online policy: where it stands, what it played, what that was worth."""
    online = Online.load(path)
    family, steering, state = online.family, online.steering, online.state()
    player, n, unit = state["player"], max(state["requests"], 1), family.unit
    said = f"{steering.name} on {family.levels} level(s), {state['requests']:,} requests"
    told, verdict = f"{said}.", _keeps(None, None, f"{steering.name} steers for reward")
    costs: Any = [None] * family.levels if family.expected_costs is None else family.expected_costs
    levels = [{"level": a, "named": str(a), "cost": cost} for a, cost in enumerate(costs)]
    if isinstance(steering, Controller):
        low, high = family.ends.tolist()
        limit, moved = low + steering.budget * (high - low), player["price"] + steering.start - 1
        near = steering.bound(n) * (high - low)
        # Each request moved the price by `step` times what it was off the budget: their sum is known.
        mean = limit + moved / (steering.step * n) * (high - low)
        at = round(min(max(1 - player["price"], 0.0), 1.0) * (family.levels - 1))
        told += f" The next request is served on level {at}."
        spent = f"mean cost {mean:.4g} {unit} if all gave feedback, off by {near:.3g} at most"
        verdict = _keeps(mean <= limit + near, limit, spent)
    for one in levels if "pulls" in player else ():
        played, pulls, total = (player[of][one["level"]] for of in ("choices", "pulls", "total"))
        one |= {"played": played, "reward": total / pulls if pulls else None}
    shown = panel("steering", {"told": told, "unit": unit}, levels, levels)
    return [shown], verdict, f"{path.name}: {said}"


def _drift(path: Path) -> Seen:
    """Return the panel of a drift watch: the evidence of each statistic, and how it moved."""
    watch = DriftWatch.restore(json.loads(path.read_bytes()))
    moved, alarm = watch.report(), watch.alarm
    facts = {"requests": watch.requests, "most": moved[0].statistic}
    rows, lines = [dict(vars(one)) for one in moved], {"Evidence": [rule(1.0, "alarm", "y")]}
    told = f"No drift is seen. Most evidence: {moved[0]}." if alarm is None else f"{alarm}."
    verdict = _verdict("No drift" if alarm is None else "Drift", alarm is None, told)
    said = f"{path.name}: a drift watch of {watch.requests:,} requests"
    return [panel("drift", facts, rows, rows, rules=lines)], verdict, said


def watched_content(monitor: RiskMonitor, title: str, course: Sequence[Any]) -> dict[str, Any]:
    """Return the page of a promise that was watched: how mean and e-value went as losses came in."""
    panels, verdict, said = _watched(monitor, "watched", course)
    return page("monitor", title, said, panels, verdict)


def _watched(monitor: RiskMonitor, called: str, course: Sequence[Mapping[str, Any]] = ()) -> Seen:  # fmt: skip
    """Return the panel of a watched promise; `course`: how mean and e-value went as losses came in."""
    (low, high), alarm, limit = monitor.risk, monitor.alarm, 1 / (1 - monitor.confidence)
    facts = {"most": monitor.most, "limit": limit, "losses": monitor.losses, "e": monitor.e_value}
    facts |= with_interval("mean", (low + high) / 2, low, high)
    ends = [rule(alarm.losses, "alarm")] if alarm else []
    rules = {"Mean loss": [rule(monitor.most, "promised", "y"), *ends]}
    rules["Evidence"] = [rule(limit, "alarm", "y"), *ends]
    said = f"mean loss {low:.4g} to {high:.4g} after {monitor.losses:,} losses"
    said += f", promised {monitor.most:.4g} at most"
    told = f"The promise is believed: {said}." if alarm is None else f"{alarm}."
    verdict = _verdict("Promise kept" if alarm is None else "Alarm", alarm is None, told)
    shown = panel("promise", facts, (), [*course, facts], rules=rules)
    return [shown], verdict, f"{called}: a monitor of {monitor.losses:,} losses"


def _promise(path: Path) -> Seen:
    return _watched(RiskMonitor.restore(json.loads(path.read_bytes())), path.name)


_STATES = {"policyopt-online": _online, "policyopt.drift/1": _drift, "policyopt-risk-monitor": _promise}  # fmt: skip
