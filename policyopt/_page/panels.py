"""Panels of a page, JSON-able: a figure as plotly draws it, a table, words on how to read them.

Names come from anyone: in figures, where plotly reads marks of HTML, they are escaped; the page escapes all else.
"""

from __future__ import annotations

import html
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np

from policyopt._report.calibration import reliability
from policyopt._report.explanation import Explanation
from policyopt._report.figures import COLOURS as _PRINT
from policyopt._report.routes import Routes
from policyopt.runtime._text import printable
from policyopt.runtime._thresholds import threshold_text

COLOURS = _PRINT[:-1]  # black is no colour on a dark page
GREY, BLUE, RED, GREEN = "#8c8c8c", *COLOURS[:3]
#: From early exits to late ones: told apart on white, on black, and in grey.
_EARLY_LATE = np.array([[242, 193, 78], [93, 165, 164], [43, 92, 158]])
# Lines in colour; classes, changed rows, shares shown.
_BEST, _CLASSES, _SOME, _RARE = 5, 30, 12, 0.01
#: What readers are told of a map of that name.
OWN = {"none": "own confidence"}
_MODES = {"dots": "lines+markers", "points": "markers"}

# --- what panels are made of ------------------------------------------------------------------


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads((files("policyopt._page") / "words.toml").read_text("utf-8"))


def plain(value: Any) -> Any:
    """Return what JSON has a word for: numbers of six digits, None where there is none."""
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def panel(
    id: str, facts: Mapping[str, Any], records: Sequence[Any] = (), rows: Sequence[Any] = (), *,
    rules: Mapping[str, Any] = MappingProxyType({}), **parts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return a panel as `words.toml` has it: its words with facts, a table of records, views of rows with rules."""
    told = _words()[id]
    fill = {name: told.get(name, "").format(**facts) for name in ("title", "words", "alt", "caption")}  # fmt: skip
    views, colours = list(parts.pop("views", ())), parts.pop("colours", COLOURS)
    for spec in told.get("views", ()):
        given = {"colours": colours, "shapes": rules.get(spec["title"], [])}
        if own := [row for row in rows if row.get(spec["y"]) is not None]:
            ends = {of: spec[of].format(**facts) for of in ("across", "up")}
            views.append([spec["title"], chart(own, **given | spec | ends)])
    if records and "columns" in told:
        columns = {head.format(**facts): rest for head, *rest in told["columns"]}
        parts["table"] = table(records, columns, **parts.pop("of", {}))
    if parts.get("table"):
        parts["table"]["caption"] = fill["caption"]
    del fill["caption"]
    shown = {"figure": views[0][1]} if len(views) == 1 else {"views": views or None}
    empty = dict.fromkeys(("figure", "views", "table", "items"))
    return plain({"id": id, **fill, **empty, **shown, **parts})


def table(records: Sequence[Any], columns: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a table; of a column its kind, a field (with its interval, if any) or a function, and digits."""
    heads, cells = [], []
    for head, (kind, of, *digits) in columns.items():
        values = [of(one) if callable(of) else cell(one, of) for one in records]
        if any(value is not None for value in values):
            heads.append({"name": head, "kind": kind, "digits": (*digits, 2)[0], "title": ""})
            cells.append(values)
    rows = [list(row) for row in zip(*cells, strict=True)]
    return {"columns": heads, "rows": rows, "caption": "", "group": None, "budget": None, **more}


def cell(record: Mapping[str, Any], of: str) -> Any:
    """Return a field of a record, with its interval if it has one."""
    whole = [record.get(f"{of}{end}") for end in ("", "_low", "_high")]
    return whole[0] if None in whole else whole


def figure(data: Sequence[Any], across: str = "", up: str = "", **layout: Any) -> dict[str, Any]:
    """Return a plotly figure with titles of its axes."""
    for axis, title in (("xaxis", across), ("yaxis", up)):
        usual = {"title": {"text": name(title, 80)}, "automargin": True}
        layout[axis] = usual | layout.get(axis, {})
    return {"data": list(data), "layout": layout}


def chart(
    rows: Sequence[Mapping[str, Any]], x: str, y: str, across: str, up: str, by: str = "", kind: str = "line",
    form: str = "", colours: Sequence[str] = COLOURS, title: str = "", **layout: Any,
) -> dict[str, Any]:  # fmt: skip
    """Draw y, with its interval, against x, numbers or names, by a third: line, dots, points, bars, stack, area."""
    places, groups = list(dict.fromkeys(row[x] for row in rows)), dict[Any, list[Any]]()
    for row in rows:
        groups.setdefault(row.get(by, ""), []).append(row)
    drawn, named = [], isinstance(places[0], str)
    for i, (called, own) in enumerate(groups.items()):
        best = i < (len(colours) if len(groups) <= len(colours) else _BEST)
        colour, at = colours[i] if best else GREY, [places.index(o[x]) if named else o[x] for o in own]  # fmt: skip
        mean, low, high = (np.array([o.get(y + end) for o in own], float) for end in ("", "_low", "_high"))  # fmt: skip
        sort = "points" if kind == "line" and len(own) == 1 else kind
        look = {"legendgroup": name(called), "showlegend": best and len(groups) > 1}
        ends = best and not np.isnan(low).all()
        if ends and sort == "line":
            around = {"fill": "toself", "fillcolor": f"{colour}26", "hoverinfo": "skip"}
            around |= {"line": {"width": 0}, "showlegend": False, "legendgroup": name(called)}
            drawn.append(line([*at, *at[::-1]], [*high, *low[::-1]], called, colour, **around))
        elif ends:
            look["error_y"] = {"array": high - mean, "arrayminus": mean - low, "symmetric": False}
        if kind == "area":
            look |= {
                "stackgroup": "one",
                "fillcolor": colour,
                "line": {"color": colour, "width": 0.5},
            }
        if kind in ("bars", "stack"):
            drawn.append(bars(mean, called, colour, x=at, **look))
        else:
            mode = _MODES.get(sort, "lines")
            drawn.append(line(at, mean, called, colour, mode=mode, **look))
    if kind == "stack":
        layout["barmode"] = kind
    axes: dict[str, Any] = {"xaxis": ticks(places) if named else {}, "yaxis": {"tickformat": form}}
    if x.endswith("cost") and 0 < 8 * min(places) < max(places):  # as the explorer has it
        axes["xaxis"], across = {"type": "log", "dtick": "D2"}, f"{across}, log scale"
    return figure(drawn, across, up, **axes | layout)


def heat(counts: Any, text: Any, x: Any, y: Sequence[Any], across: str, up: str) -> dict[str, Any]:
    """Draw a square of numbers, darker where larger; few among many are seen."""
    look = {"colorscale": [[0, "#56b4e90a"], [1, "#1c86ce"]], "showscale": False}  # fmt: skip
    told = {"z": np.sqrt(counts), "text": text, "hovertemplate": "%{text}<extra></extra>"}
    drawn = {"type": "heatmap", "x": x, **told, **look}
    return figure([drawn], across, up, yaxis=ticks(y, 14, autorange="reversed"))


def name(text: Any, most: int = 40) -> str:
    """Return a name as a figure shows it letter by letter."""
    return html.escape(printable(str(text), most), quote=False)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def shades(count: int) -> list[str]:
    """Return a colour of each of so many exits, from early to late."""
    at = np.linspace(0, 2, max(count, 2))[:count]
    mixed = np.transpose([np.interp(at, range(3), part) for part in _EARLY_LATE.T])
    return [f"#{one.astype(np.uint8).tobytes().hex()}" for one in mixed]


def line(x: Any, y: Any, called: Any, colour: str, **more: Any) -> dict[str, Any]:
    """Return a line; its name stands in the legend."""
    look = {"mode": "lines", "line": {"color": colour}, "marker": {"color": colour}}
    return {"type": "scatter", "x": x, "y": y, "name": name(called), **look, **more}


def bars(heights: Any, called: str, colour: str, **more: Any) -> dict[str, Any]:
    """Return bars at places 0, 1, 2, ..."""
    look = {"type": "bar", "marker": {"color": colour}, "x": np.arange(len(heights))}
    return {**look, "y": heights, "name": name(called), **more}


def rule(at: float, text: str = "", way: str = "x") -> dict[str, Any]:
    """Return a straight line through a figure, with its words: a threshold, a budget, an alarm."""
    other = "y" if way == "x" else "x"
    ends = {f"{way}0": at, f"{way}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    label = {"text": name(text), "textposition": "end", "textangle": 0, "font": {"size": 11}}
    label |= {"xanchor": "right", "yanchor": "bottom"} if way == "y" else {}
    look = {"color": GREY, "width": 1.5, "dash": "dash"}
    return {"type": "line", **ends, "line": look, "label": label}


def ticks(names: Sequence[Any], most: int = 40, **more: Any) -> dict[str, Any]:
    """Return an axis on which places 0, 1, 2, ... have names, which may be alike; some, of many."""
    some = range(0, len(names), -(-len(names) // most) or 1)
    shown = [name(names[i]) for i in some]
    return {"tickvals": list(some), "ticktext": shown, **more}


def numbered(exit_: Mapping[str, Any]) -> str:
    """Return what an exit is called: its number and name."""
    return f"{exit_['exit']} {exit_.get('name', '')}".strip()


# --- what a policy does -----------------------------------------------------------------------


def explanation_panels(
    found: Explanation, classes: Sequence[str] = (), samples: Callable[[int], Any] | None = None,
    numbers: tuple[Any, str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return panels of exits, scores, classes and changed rows; `samples`: of a row's number its text or image.

    `numbers`: of the rows in the cache, and of what there.
    """
    word = "accuracy" if found.record["quality"] == found.record["accuracy"] else "quality"
    record = {**found.record, "word": word, "score": found.record["policy"]["score"]}
    record["right"] = "right" if word == "accuracy" else word
    panels = [_exits(record), _scores(record)]
    panels += [_classes(record, classes)] if record["classes"] else []
    numbers = numbers or (range(record["rows"]), record["split"])
    changes = record["changes"] and changes_panel(found, record, classes, samples, *numbers)
    return [*panels, changes] if changes else panels


def _exits(record: Mapping[str, Any]) -> dict[str, Any]:
    exits = [
        {**one, "called": numbered(one), "threshold": " or ".join(map(threshold_text, one["thresholds"])) or "-"}
        for one in record["exits"]
    ]  # fmt: skip
    series = {
        "share_left": ("who", "of the rows leave here"), "cost_share": ("who", "of all cost is spent on them"),
        "quality_left": ("right", "leave here"), "quality_stayed": ("right", "go on (had they left)"),
        "quality": ("right", "all (had they left)"), "rescued": ("gone", "rescued"),
        "overthought": ("gone", "overthought"),
    }  # fmt: skip
    rows = [{**e, "of": what, y: e[of]} for of, (y, what) in series.items() for e in exits]
    told = "" if record["quality"] is None else f", {record['word']} {percent(record['quality'], 2)}"  # fmt: skip
    shares = ", ".join(f"{one['called']} {percent(one['share_left'])}" for one in exits)
    return panel("exits", {**record, "quality_told": told, "shares": shares}, exits, rows)


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    views, colours = [], {"right": BLUE, "wrong": RED, "all": GREEN}
    for one in record["exits"]:
        edges, drawn = np.array(one["score"]["edges"]), []
        at = {"x": (edges[1:] + edges[:-1]) / 2, "width": np.diff(edges), "opacity": 0.6}
        for who, group in one["score"]["reached"].items():
            shares = np.array(group["counts"]) / max(group["rows"], 1)
            drawn.append(bars(shares, f"{who} answers", colours[who], **at))
        inside = [t for t in one["thresholds"] if edges[0] <= t <= edges[-1]]
        rules = [rule(t, f"threshold {threshold_text(t)}") for t in inside]
        more = {"barmode": "overlay", "bargap": 0, "shapes": rules, "yaxis": {"tickformat": ".0%"}}
        drawing = figure(drawn, f"score ({record['score']})", "share of the group", **more)
        views.append([numbered(one), drawing])
    return panel("scores", record, views=views)


def _classes(record: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    order = [
        {
            **one,
            "called": _class(one["class"], classes),
            "last": one["quality_exits"][-1],
            "left": " ".join(f"{100 * share:.0f}" for share in one["exit_share"]),
        }
        for one in sorted(record["classes"], key=lambda one: -one["cost"])[:_CLASSES]
    ]
    exits = [f"exit {numbered(one)}" for one in record["exits"]]
    rows = [{"called": one["called"], "exit": of, "share": one["exit_share"][k]}
            for k, of in enumerate(exits) for one in order]  # fmt: skip
    facts = {**record, "dearest": order[0]["called"], "most": order[0]["cost"]}
    facts |= {"shown": len(order), "all": len(record["classes"])}
    return panel("classes", facts, order, rows, colours=shades(len(exits)))


def _class(number: int, classes: Sequence[str]) -> str:
    return f"{number} {classes[number]}" if 0 <= number < len(classes) else str(number)


def changes_panel(
    found: Explanation, record: Any, classes: Sequence[str], samples: Any, numbers: Any, of: str
) -> dict[str, Any]:
    """Return the panel of rows that fare otherwise than with the reference."""
    changes, rows, items, answers = record["changes"], found.rows(), [], ""
    names = [*map(numbered, changes["exits"])]
    for which in ("worse", "better") if changes["better"] is not None else ():
        answers += f"; {changes[which]:,} rows get a {which} answer"
        for i in changes[f"rows_{which}"][: _SOME if samples else _SOME // 3]:
            now, old, label = (
                _class(rows[i][of], classes) if of in rows[i] else ""
                for of in ("prediction", "reference_prediction", "label")
            )
            exits = (names[rows[i][of]] for of in ("exit", "reference_exit"))
            known = f" (label {label})" if label else ""
            facts = [
                ["answer", f"{now}, before {old}{known}"],
                ["exit", "{}, before {}".format(*exits)],
            ]
            title, at = f"{which}: row {numbers[i]} of {of}", int(numbers[i])
            bare = {"title": title, "text": None, "image": None, "facts": facts}
            items.append(bare | (samples(at) if samples else {}))
    against = record["reference"]["method"] or "the reference"
    counts = np.array(changes["transitions"])
    text = np.where(counts, counts.astype(str), "")
    drawing = heat(counts, text, None, names, "exit now", f"exit with {against}")
    drawing["data"][0]["texttemplate"] = "%{text}"
    drawing["layout"]["xaxis"] |= ticks(names)
    told = {**changes, "unit": record["unit"], "against": against, "answers": answers}
    columns: dict[str, Any] = {f"exit with {against}": ("text", lambda k: names[k])}
    columns |= {
        f"now {so}": ("number", lambda k, j=j: int(counts[k, j]), 0) for j, so in enumerate(names)
    }
    moved = table(range(len(names)), columns)
    return panel("changes", told, views=[["", drawing]], items=items or None, table=moved)


def routes_panels(routes: Routes) -> list[dict[str, Any]]:
    """Return the panel of who is asked after whom."""
    record = routes.record
    flows = [one for one in record["flows"] if one["share"] >= _RARE]
    letters = 24 if max(one["turn"] for one in flows) < 6 else 9
    place = {(one["turn"], one["model"]): i for i, one in enumerate(flows)}
    colours = dict(zip([one["model"] for one in record["models"]], COLOURS * 9, strict=False))
    links = [(place[one["turn"] - 1, of], i, share) for i, one in enumerate(flows)
             for of, share in one["from"].items() if (one["turn"] - 1, of) in place]  # fmt: skip
    links += [(i, len(flows), one["stop"]) for i, one in enumerate(flows) if one["stop"] > 0]
    node = {"label": [*(f"{one['turn']}. {name(one['model'], letters)}" for one in flows), "answer"],
            "color": [*(colours.get(one["model"], GREY) for one in flows), GREY]}  # fmt: skip
    ends = dict(zip(("source", "target", "value"), zip(*links, strict=True), strict=True))
    flow = {"type": "sankey", "node": node, "link": {**ends, "color": f"{GREY}55"}}
    word = "accuracy" if record["quality"] == record["accuracy"] else "quality"
    asked = ", ".join(f"{m['model']} asked by {percent(m['asked'])}" for m in record["models"])
    facts = {**record, "word": word, "told": percent(record["quality"], 2), "asked": asked}
    ways = [{**one, "way": " > ".join(one["asked"])} for one in record["ways"]]
    flow |= {"valueformat": ".1%", "textfont": {"size": 11}}
    drawing = {"data": [flow], "layout": {}}
    return [panel("routes", facts, ways, views=[["", drawing]])]


def calibration_panels(
    records: Sequence[Mapping[str, Any]], columns: Mapping[str, Any], kin: Any = None
) -> list[dict[str, Any]]:
    """Return the panel of confidence against accuracy, over all rows and over those that leave.

    `records`: of `calibration_records`; `columns`: by calibration what these are of: confidence, correct, (N, K) each,
    and exits (N,).
    """
    views, pairs = [], list(zip(records[::2], records[1::2], strict=True))
    for called, (confidence, correct, exits) in columns.items():
        mine = [record for record, _ in pairs if record["calibration"] == called]
        for k, record in enumerate(mine):
            parts = {"all rows": np.full(len(exits), True), "leave here": exits == record["exit"]}
            points = [
                {**one, "of": of} for of, rows in parts.items()
                for one in reliability(confidence[rows, k], correct[rows, k], kin=None if kin is None else kin[rows])
            ]  # fmt: skip
            least = min(min(one["confidence"], one["accuracy"]) for one in points)
            least = max(float(np.floor(10 * least - 0.3)) / 10, 0.0)
            even = {"type": "line", "x0": least, "x1": 1, "y0": least, "y1": 1, "layer": "below"}
            way = {"range": [least, 1.01], "tickformat": ".0%"}
            look: Any = {"shapes": [even | {"line": {"color": GREY}}], "xaxis": way, "yaxis": way}
            look |= {"by": "of", "kind": "dots", "colours": (BLUE, RED)}
            drawn = chart(points, *("confidence", "accuracy") * 2, **look)
            views.append([numbered(record) + ("" if called == "none" else f", {called}"), drawn])
    told = [
        {**one, "calibration": OWN.get(one["calibration"], one["calibration"]),
         "called": numbered(one), "leavers": two["rows"], "left_gap": two["gap"],
         **{f"left{end}": two[f"ece{end}"] for end in ("", "_low", "_high")}}
        for one, two in pairs
    ]  # fmt: skip
    errors = ", ".join(f"exit {one['called']} {percent(one['ece'])}" for one in told[:_SOME])
    return [panel("calibration", {"errors": errors}, told, views=views)]
