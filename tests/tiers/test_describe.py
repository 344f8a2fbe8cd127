"""Descriptions of tiers: the committed example loads, and every wrong field is named."""

from __future__ import annotations

import copy
import json

import pytest

import policyopt as po
from policyopt.runtime.errors import InputError
from policyopt.tiers.describe import load_tiers, tiers_from

GOOD = {
    "model": {"input_bytes": 784, "cut_bytes": [100], "answer_bytes": 8},
    "tier": [{"name": "device", "ms_per_unit": 1}, {"name": "cloud", "stage_ms": [1, 2]}],
    "link": [{"megabits_per_second": 8, "round_trip_ms": 10}],
}


def test_the_example_fits_the_cache_that_ships(root):
    tiers = load_tiers(root / "docs" / "tiers.toml")
    cost = po.open_cache(root / "cache" / "fashion_mnist").cost()
    tiers.check(5, cost.cascade, cost.unit)
    with pytest.raises(InputError, match="cut_bytes"):
        tiers.check(4, False, cost.unit)
    with pytest.raises(InputError, match="unit"):
        tiers.check(5, False, "ms")
    with pytest.raises(InputError, match="stage_ms"):
        tiers_from({**GOOD, "model": {"input_bytes": 1}}).check(3, True, "ms")


def test_json_and_toml_say_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "a.toml").write_text(
        "[model]\ninput_bytes = 784\ncut_bytes = [100]\nanswer_bytes = 8\n"
        '[[tier]]\nname = "device"\nms_per_unit = 1\n[[tier]]\nname = "cloud"\nstage_ms = [1, 2]\n'
        "[[link]]\nmegabits_per_second = 8\nround_trip_ms = 10\n"
    )
    assert load_tiers(tmp_path / "a.json") == load_tiers(tmp_path / "a.toml") == tiers_from(GOOD)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("model", "input_bytes"), -1, "input_bytes of the model"),
        (("model", "input_bytes"), float("nan"), "input_bytes of the model"),
        (("model", "input_bytes"), True, "input_bytes of the model"),
        (("model", "cut_bytes"), 5, "cut_bytes of the model"),
        (("model", "head_share"), [2.0], "head_share of the model"),
        (("model", "colour"), 1, "colour"),
        (("tier", 0, "name"), "", "name of tier 0"),
        (("tier", 0, "name"), "cloud", "different names"),
        (("tier", 0, "stage_ms"), [1.0], "stage_ms, one of the two"),
        (("tier", 1, "watts"), "x", "watts of tier 1"),
        (("tier", 1, "most_stages"), 1.5, "most_stages of tier 1"),
        (("tier", 1, "speed"), 1, "speed"),
        (("tier",), [], "'tier'"),
        (("link",), [], "'link'"),
        (("link", 0, "megabits_per_second"), 0, "megabits_per_second of link 0"),
        (("link", 0, "round_trip_ms"), 1e400, "round_trip_ms of link 0"),
        (("more",), 1, "more"),
        (("model",), [], "model"),
    ],
)
def test_wrong_fields_are_named(place, value, named):
    content = copy.deepcopy(GOOD)
    at = content
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    with pytest.raises(InputError, match=named):
        tiers_from(content)


def test_files_that_are_none(tmp_path):
    for name, text in (
        ("a.toml", "x ="),
        ("b.json", "[" * 100_000),
        ("c.json", "3"),
        ("d.toml", ""),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError):
            load_tiers(tmp_path / name)
    (tmp_path / "e.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(InputError, match="1 MiB"):
        load_tiers(tmp_path / "e.toml")
    with pytest.raises(InputError, match="must be a file"):
        load_tiers(tmp_path / "none.toml")
