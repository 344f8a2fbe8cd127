"""Panels of a page, JSON-able: a figure as plotly draws it, a table, words on how to read them.

Names come from anyone: in figures, where plotly reads marks of HTML, they are escaped; the page escapes all else.
"""

from __future__ import annotations

import html
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from policyopt._report.calibration import reliability
from policyopt._report.explanation import Explanation
from policyopt._report.figures import COLOURS as _PRINT
from policyopt._report.routes import Routes
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._text import printable

COLOURS = _PRINT[:-1]  # black is no colour on a dark page
GREY, BLUE, RED, GREEN = "#8c8c8c", *COLOURS[:3]
#: From early exits to late ones: told apart on white, on black, and in grey.
_EARLY_LATE = np.array([[242, 193, 78], [93, 165, 164], [43, 92, 158]])
_CLASSES, _SOME = 30, 12  # classes, and rows of each sort of change, that are shown
_SHARES = {"tickformat": ".0%", "rangemode": "tozero"}

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


def panel(id: str, facts: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    """Return a panel of a figure, or views of one, a table and items; its words, with facts filled in."""
    said = {name: text.format(**facts) for name, text in _words()[id].items()}
    if parts.get("table"):
        parts["table"]["caption"] = said.get("caption", "")
    empty = dict.fromkeys(("figure", "views", "table", "items"))
    return plain({"id": id, **{of: said[of] for of in ("title", "words", "alt")}, **empty, **parts})


def figure(data: Sequence[Any], across: str = "", up: str = "", **layout: Any) -> dict[str, Any]:
    """Return a plotly figure with titles of its axes."""
    for axis, title in (("xaxis", across), ("yaxis", up)):
        usual = {"title": {"text": name(title, 80)}, "automargin": True}
        layout[axis] = usual | layout.get(axis, {})
    return {"data": list(data), "layout": layout}


def table(records: Sequence[Any], columns: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a table; of a column its kind, a field (with its interval, if any) or a function, and digits."""
    heads = [{"name": head, "kind": kind, "digits": (*digits, 2)[0], "title": ""}
             for head, (kind, _, *digits) in columns.items()]  # fmt: skip
    rows = [[cell(record, of) for _, of, *_ in columns.values()] for record in records]
    return {"columns": heads, "rows": rows, "caption": "", "group": None, "budget": None, **more}


def cell(record: Any, of: Any) -> Any:
    """Return a field of a record, with its interval if it has one; or what a function says of it."""
    if callable(of):
        return of(record)
    whole = [record.get(f"{of}{end}") for end in ("", "_low", "_high")]
    return whole[0] if None in whole else whole


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
    look = {"color": GREY, "width": 1.5, "dash": "dash"}
    return {"type": "line", **ends, "line": look, "label": label}


def ticks(names: Sequence[Any], **more: Any) -> dict[str, Any]:
    """Return an axis on which places 0, 1, 2, ... have names, which may be alike."""
    shown = [name(one, 20) for one in names]
    return {"tickvals": list(range(len(shown))), "ticktext": shown, **more}


def numbered(exit_: Mapping[str, Any]) -> str:
    """Return what an exit is called: its number and name."""
    return f"{exit_['exit']} {exit_.get('name', '')}".strip()


# --- what a policy does -----------------------------------------------------------------------


def explanation_panels(
    found: Explanation, classes: Sequence[str] = (), samples: Callable[[int], Any] | None = None
) -> list[dict[str, Any]]:
    """Return panels of exits, scores, classes and changed rows; `samples`: of a row's number its text or image."""
    record = found.record
    panels = [_exits(record), _scores(record)]
    panels += [_classes(record, classes)] if record["classes"] else []
    return panels + ([_changes(found, classes, samples)] if record["changes"] else [])


def _cost(record: Mapping[str, Any], of: str = "realised_cost") -> str:
    return f"{record[of]:.4g} {record['unit']}"


def _word(record: Mapping[str, Any]) -> str:
    return "accuracy" if record["quality"] == record["accuracy"] else "quality"


def _exits(record: Mapping[str, Any]) -> dict[str, Any]:
    exits, word, quality = record["exits"], _word(record), ""
    axes = {"xaxis": ticks([*map(numbered, exits)]), "barmode": "group"}

    def view(up: str, axis: Any, **fields: tuple[str, str]) -> dict[str, Any]:
        drawn = [bars([one[of] for one in exits], *look) for of, look in fields.items()]
        return figure(drawn, "exit", up, yaxis=axis, **axes)

    spent = ("of all cost is spent on them", GREY)
    leave = view("share", _SHARES, share_left=("of the rows leave here", BLUE), cost_share=spent)
    views = [["Who leaves", leave]]
    columns: dict[str, Any] = {
        "exit": ("text", numbered), f"cost [{record['unit']}]": ("number", "cost", 4),
        "threshold": ("text", lambda r: " or ".join(map(_threshold, r["thresholds"])) or "-"),
        "leave %": ("percent", "share_left", 1), "of cost %": ("percent", "cost_share", 1),
    }  # fmt: skip
    if record["quality"] is not None:
        quality = f", {word} {percent(record['quality'], 2)}"
        views.append(["How right", view(
            word, _SHARES, quality_left=("leave here", BLUE), quality_stayed=("go on (had they left)", RED),
            quality=("all (had they left)", GREY),
        )])  # fmt: skip
        gone = {"rescued": ("rescued by going on", GREEN), "overthought": ("better had they left", RED)}  # fmt: skip
        views.append(["Overthinking", view("rows", {}, **gone)])
        columns |= {
            "of leavers right %": ("percent", "quality_left", 1), "of stayers %": ("percent", "quality_stayed", 1),
            "rescued": ("number", "rescued", 0), "overthought": ("number", "overthought", 0),
            "AUROC": ("number", "auroc", 3),
        }  # fmt: skip
    shares = ", ".join(f"{numbered(one)} {percent(one['share_left'])}" for one in exits)
    facts = {**record, "cost": _cost(record), "quality": quality, "shares": shares}
    return panel("exits", facts, views=views, table=table(exits, columns))


def _threshold(value: float) -> str:
    return {ALWAYS: "always", NEVER: "never"}.get(value, f"{value:.4g}")


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    views, colours, score = [], {"right": BLUE, "wrong": RED, "all": GREEN}, record["policy"]["score"]  # fmt: skip
    for one in record["exits"]:
        edges, drawn = np.array(one["score"]["edges"]), []
        at = {"x": (edges[1:] + edges[:-1]) / 2, "width": np.diff(edges), "opacity": 0.6}
        for who, group in one["score"]["reached"].items():
            shares = np.array(group["counts"]) / max(group["rows"], 1)
            drawn.append(bars(shares, f"{who} answers", colours[who], **at))
        inside = [t for t in one["thresholds"] if edges[0] <= t <= edges[-1]]
        rules = [rule(t, f"threshold {_threshold(t)}") for t in inside]
        more = {"barmode": "overlay", "bargap": 0, "shapes": rules, "yaxis": _SHARES}
        views.append([numbered(one), figure(drawn, f"score ({score})", "share of the group", **more)])  # fmt: skip
    return panel("scores", {"score": score}, views=views)


def _classes(record: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    order = sorted(record["classes"], key=lambda one: -one["cost"])[:_CLASSES]
    names, exits, drawn = [_class(one["class"], classes) for one in order], record["exits"], []
    for k, (one, colour) in enumerate(zip(exits, shades(len(exits)), strict=True)):
        across = {"x": [of["exit_share"][k] for of in order], "orientation": "h"}
        drawn.append(bars(np.arange(len(order)), f"exit {numbered(one)}", colour, **across))
    axes = {"yaxis": ticks(names, autorange="reversed"), "xaxis": {**_SHARES, "range": [0, 1]}}
    axes |= {"barmode": "stack", "height": 150 + 20 * len(order)}
    columns = {
        "class": ("text", lambda r: _class(r["class"], classes)), "rows": ("number", "rows", 0),
        f"cost [{record['unit']}]": ("number", "cost", 4), f"{_word(record)} %": ("percent", "quality", 1),
        "last exit %": ("percent", lambda r: r["quality_exits"][-1], 1),
    }  # fmt: skip
    facts = {"dearest": names[0], "cost": _cost({**record, **order[0]}, "cost")}
    facts |= {"shown": len(order), "all": len(record["classes"])}
    drawing = figure(drawn, "share of the class", **axes)
    return panel("classes", facts, figure=drawing, table=table(order, columns))


def _class(number: int, classes: Sequence[str]) -> str:
    return f"{number} {classes[number]}" if 0 <= number < len(classes) else str(number)


def _changes(found: Explanation, classes: Sequence[str], samples: Any) -> dict[str, Any]:
    record, rows, items, answers = found.record["changes"], found.rows(), [], ""
    against = found.record["reference"]["method"] or "the reference"
    counts, names = np.array(record["transitions"]), [*map(numbered, record["exits"])]
    heat = {
        "type": "heatmap", "z": np.sqrt(counts), "text": np.where(counts, counts.astype(str), ""), "xgap": 1, "ygap": 1,
        "texttemplate": "%{text}", "colorscale": [[0, f"{BLUE}0a"], [1, f"{BLUE}99"]], "showscale": False,
        "hovertemplate": "%{text} rows<extra></extra>",
    }  # fmt: skip
    for which in ("worse", "better") if record["better"] is not None else ():
        answers += f"; {record[which]:,} rows get a {which} answer"
        for i in record[f"rows_{which}"][:_SOME]:
            own = {"label": "label", "answer": "prediction", "before": "reference_prediction"}
            facts = [[head, _class(rows[i][of], classes)] for head, of in own.items() if of in rows[i]]  # fmt: skip
            facts += [["exit", names[rows[i]["exit"]]], ["before", names[rows[i]["reference_exit"]]]]  # fmt: skip
            bare = {"title": f"{which}: row {i}", "text": None, "image": None, "facts": facts}
            items.append(bare | (samples(i) if samples else {}))
    axes = {"xaxis": ticks(names), "yaxis": ticks(names, autorange="reversed")}
    drawing = figure([heat], "exit now", f"exit with {against}", **axes)
    told = {**record, "unit": found.record["unit"], "against": against, "answers": answers}
    return panel("changes", told, figure=drawing, items=items or None)


def routes_panels(routes: Routes) -> list[dict[str, Any]]:
    """Return the panel of who is asked after whom."""
    record, flows, word = routes.record, routes.record["flows"], _word(routes.record)
    place = {(one["turn"], one["model"]): i for i, one in enumerate(flows)}
    colours = dict(zip([one["model"] for one in record["models"]], COLOURS * 9, strict=False))
    links = [(place[one["turn"] - 1, of], i, share) for i, one in enumerate(flows)
             for of, share in one["from"].items() if (one["turn"] - 1, of) in place]  # fmt: skip
    links += [(i, len(flows), one["stop"]) for i, one in enumerate(flows) if one["stop"] > 0]
    node = {"label": [*(f"{one['turn']}. {name(one['model'], 24)}" for one in flows), "answer"],
            "color": [*(colours.get(one["model"], GREY) for one in flows), GREY]}  # fmt: skip
    ends = dict(zip(("source", "target", "value"), zip(*links, strict=True), strict=True))
    flow = {"type": "sankey", "node": node, "link": {**ends, "color": f"{GREY}55"}, "valueformat": ".1%"}  # fmt: skip
    columns = {
        "asked, one after the other": ("text", lambda r: " > ".join(r["asked"])),
        "come here %": ("percent", "share", 1), "stop here %": ("percent", "stop", 1),
        f"cost if so [{record['unit']}]": ("number", "cost", 4), f"{word} if so %": ("percent", "quality", 1),
    }  # fmt: skip
    asked = ", ".join(f"{one['model']} is asked by {percent(one['asked'])}" for one in record["models"])  # fmt: skip
    quality = f"{word} {percent(record['quality'], 2)}"
    facts = {**record, "cost": _cost(record), "quality": quality, "asked": asked}
    drawing = {"data": [flow], "layout": {}}
    return [panel("routes", facts, figure=drawing, table=table(record["ways"], columns))]


# --- how far confidence can be trusted --------------------------------------------------------


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
            drawn, least = list[Any](), 1.0
            parts = {"all rows": (BLUE, exits >= 0), "leave here": (RED, exits == record["exit"])}
            for label, (colour, rows) in parts.items():
                own = None if kin is None else kin[rows]
                if not (points := reliability(confidence[rows, k], correct[rows, k], kin=own)):
                    continue
                x, y, low, high = (np.array([one[of] for one in points])
                                   for of in ("confidence", "accuracy", "accuracy_low", "accuracy_high"))  # fmt: skip
                ends = {"array": high - y, "arrayminus": y - low, "symmetric": False, "thickness": 1}  # fmt: skip
                drawn.append(line(x, y, label, colour, mode="lines+markers", error_y=ends))
                least = min([least, *x, *y])
            least = max(np.floor(10 * least - 0.3) / 10, 0.0)
            drawn.append(line([least, 1], [least, 1], "as right as sure", GREY))
            ways = {"range": [least, 1.01], "tickformat": ".0%"}
            label = numbered(record) + ("" if called == "none" else f", {called}")
            views.append([label, figure(drawn, "confidence", "accuracy", xaxis=ways, yaxis=ways)])
    heads = {
        "calibration": ("text", lambda r: r[0]["calibration"]), "exit": ("text", lambda r: numbered(r[0])),
        "ECE %": ("percent", lambda r: cell(r[0], "ece")), "gap in points": ("points", lambda r: r[0]["gap"]),
        "leavers": ("number", lambda r: r[1]["rows"], 0), "their ECE %": ("percent", lambda r: cell(r[1], "ece")),
        "their gap": ("points", lambda r: r[1]["gap"]),
    }  # fmt: skip
    errors = ", ".join(f"exit {numbered(one)} {percent(one['ece'])}" for one, _ in pairs[:_SOME])
    return [panel("calibration", {"errors": errors}, views=views, table=table(pairs, heads))]
