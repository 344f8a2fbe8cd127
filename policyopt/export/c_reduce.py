"""`runtime.output.reduce_logits` in C, as far as its columns are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .c_places import Place
from .graph import Node

if TYPE_CHECKING:
    from .c_body import Body


def reduced(body: Body, node: Node) -> list[str]:
    """Return the lines that find a row's largest classes, their probabilities and the entropy.

    Parameters
    ----------
    body : Body
        Gets the places of the columns.
    node : Node
        A ``reduce``.
    """
    fields = {
        n.attrs["name"]: n
        for n in (*body.plan.main, *body.plan.extra)
        if n.op == "field" and n.args[0] is node
    }
    tag = str(body.count)
    body.count += 1
    x, size = body.address(node.args[0]), node.args[0].size
    best, peak, rest, total = (f"{what}{tag}" for what in ("best", "peak", "rest", "total"))
    use = body.helpers.use
    # A C identifier, or the address of an element, which reads as one.
    at = f"{x}[{best}]" if x[0] != "&" else f"({x})[{best}]"
    lines = [
        f"const int {best} = {use('best')}({x}, {size});",
        f"if ({best} < 0) return {body.bad};",
    ]
    if "prediction" in fields:
        body.names[id(fields["prediction"])] = best
    if fields.keys() == {"prediction"}:
        return lines
    lines.append(f"const float {peak} = {at};")
    ranks = max(
        (_ranks(body, fields[n]) for n in ("top_prob", "top_class") if n in fields), default=1
    )
    if "entropy" in fields:
        lines += [
            f"float sums{tag}[2];",
            f"{use('spread')}({x}, {best}, {peak}, {size}, sums{tag});",
        ]
        part = f"sums{tag}[0]"
    else:
        part = f"{use('rest')}({x}, {best}, {peak}, {size})"
    if fields.keys() - {"prediction", "top_class"}:
        lines.append(f"const double {rest} = (double){part};")
    if fields.keys() & {"top_prob", "entropy"}:
        lines.append(f"const double {total} = 1.0 + {rest};")
    lines += _tops(body, fields, ranks, tag, (x, best, peak, total, size))
    if "log_sum_exp" in fields:
        lines.append(f"const double lse{tag} = (double){peak} + log1p({rest});")
        body.names[id(fields["log_sum_exp"])] = f"lse{tag}"
    if "entropy" in fields:
        lines += [
            f"const double raw{tag} = log1p({rest}) - (double)sums{tag}[1] / {total};",
            f"const double entropy{tag} = raw{tag} > 0.0 ? raw{tag} : 0.0;",
        ]
        body.names[id(fields["entropy"])] = f"entropy{tag}"
    return lines


def _tops(
    body: Body, fields: dict[str, Node], ranks: int, tag: str, given: tuple[str, str, str, str, int]
) -> list[str]:
    x, best, peak, total, size = given
    if ranks == 1:
        if "top_class" in fields:
            body.places[id(fields["top_class"])] = Place(best, lone=True)
        if "top_prob" not in fields:
            return []
        body.places[id(fields["top_prob"])] = Place(f"top{tag}", lone=True)
        return [f"const double top{tag} = 1.0 / {total};"]
    lines = [f"float gaps{tag}[{ranks - 1}];", f"int32_t class{tag}[{ranks}];"]
    called = body.helpers.use("next")
    lines += [
        f"{called}({x}, {size}, {best}, {peak}, {ranks - 1}, gaps{tag}, &class{tag}[1]);",
        f"class{tag}[0] = {best};",
    ]
    if "top_class" in fields:
        body.places[id(fields["top_class"])] = Place(f"class{tag}")
    if "top_prob" in fields:
        body.places[id(fields["top_prob"])] = Place(f"top{tag}")
        lines += [f"double top{tag}[{ranks}];", f"top{tag}[0] = 1.0 / {total};"]
        lines += [
            f"top{tag}[{r}] = exp((double)gaps{tag}[{r - 1}]) / {total};" for r in range(1, ranks)
        ]
    return lines


def _ranks(body: Body, column: Node) -> int:
    """How many ranks are read of a column."""
    most = 1
    for node in (*body.plan.main, *body.plan.extra):
        if any(arg is column for arg in node.args):
            most = max(most, node.attrs["stop"] if node.op == "slice" else column.shape[1])
    return most
