"""What commands print: tables at any width lose nothing and break no number."""

import io
import os
import re
from collections import Counter
from contextlib import redirect_stdout
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from policyopt._cli.output import print_table


def printed(records, columns=None, width=None):
    told = {} if width is None else {"COLUMNS": str(width)}
    kept = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    with (
        mock.patch.dict(os.environ, {**kept, **told}, clear=True),
        redirect_stdout(io.StringIO()) as out,
    ):
        print_table(records, columns)
    return out.getvalue().splitlines()


NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map("{:,}".format),
    st.floats(-1e6, 1e6).map("{:.4g}".format),
    st.floats(-1, 1).map("{:+.2f}".format),
)
INTERVALS = st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda t: f"{t[0]} [{t[1]}, {t[2]}]")
WORDS = st.text("abcdefgxyz_.é漢字", min_size=1, max_size=14)
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
CELLS = st.sampled_from(
    [NUMBERS, INTERVALS, TEXTS, st.lists(NUMBERS, max_size=11).map(" ".join), WORDS]
)


@st.composite
def tables(draw):
    heads = draw(st.lists(TEXTS, min_size=1, max_size=14, unique=True))
    cells = [draw(CELLS) for _ in heads]
    rows = draw(st.lists(st.tuples(*cells), min_size=1, max_size=8))
    return heads, [dict(zip(heads, row, strict=True)) for row in rows]


@given(tables(), st.integers(40, 200))
def test_no_width_breaks_a_number_or_loses_a_word(table, width):
    heads, records = table
    cells = [cell for record in records for cell in record.values()]
    lines = printed(records, width=width)
    shown = Counter(word.rstrip(":") for line in lines for word in line.split())
    assert not Counter(word for text in (*heads, *cells) for word in text.split()) - shown
    for cell in cells:
        if cell.endswith("]"):
            assert any(cell in line for line in lines), cell
    for line in lines:  # but for a word that is longer than half of it
        longest = max(map(cell_len, re.findall(r"\S+ \[.*?\]|\S+", line)), default=0)
        assert cell_len(line) <= width or longest > width // 2 - 2
    whole = printed(records)  # piped: a line per record, under the headers and a rule
    assert len(whole) == len(records) + 3
    for line, record in zip(whole[2:], records, strict=False):
        assert all(cell in line for cell in record.values())


@pytest.mark.parametrize("width, rows, line", [
    (60, 2, "method  budget  accuracy % [95 %]  exit share %"),
    (42, 2, "method  budget  accuracy % [95 %]  share %"),
    (40, 2, "method  exit share %"),
    (40, 1, "accuracy % [95 %]  90.1 [89.0, 91.0]"),
])  # fmt: skip
def test_columns_stand_side_by_side_turned_or_below_each_other(width, rows, line):
    columns = ("method", "budget", "accuracy % [95 %]", "exit share %")
    all_rows = [
        ("always", 1.5, "90.1 [89.0, 91.0]", "5 6"),
        ("margin", 2.5, "92.3 [91.0, 93.0]", "7 8"),
    ]
    records = [dict(zip(columns, row, strict=True)) for row in 2 * all_rows][:rows]
    assert line in printed(records, width=width)


def test_few_records_of_many_columns_are_turned():
    records = [{"split": s, **{f"exit {k}": k / 7 for k in range(11)}} for s in ("fit", "test")]
    lines = printed(records, width=80)
    assert lines[0] == "split       fit    test" and lines[-2] == "exit 10   1.429   1.429"
