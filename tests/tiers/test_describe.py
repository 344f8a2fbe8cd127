"""Descriptions of tiers: the committed example loads, and every wrong field is named."""

from __future__ import annotations

import copy
import json
import time

import numpy as np
import pytest

import policyopt as po
from policyopt._tiers.description import load_tiers, tiers_from
from policyopt.runtime._errors import InputError

GOOD = {
    "model": {"input_bytes": 784, "cut_bytes": [100], "answer_bytes": 8},
    "tier": [{"name": "device", "ms_per_unit": 1}, {"name": "cloud", "stage_ms": [1, 2]}],
    "link": [{"megabits_per_second": 8, "round_trip_ms": 10}],
}

LONG = [10**5000]  # more digits than Python prints


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
        ("model input_bytes", -1, "input_bytes of the model"), ("model input_bytes", np.nan, "input_bytes of the model"),
        ("model input_bytes", True, "input_bytes of the model"), ("model cut_bytes", 5, "cut_bytes of the model"),
        ("model head_share", [2.0], "head_share of the model"), ("model colour", 1, "colour"), ("model", [], "model"),
        ("model input_bytes", 10**400, "input_bytes of the model"), ("model input_bytes", LONG, "input_bytes of the model"),
        ("model cut_bytes", LONG, "cut_bytes of the model"), ("more", 1, "more"), ("tier", [], "'tier'"),
        ("tier 0 name", "", "name of tier 0"), ("tier 0 name", "cloud", "different names"),
        ("tier 0 stage_ms", [1.0], "stage_ms, one of the two"), ("tier 1 watts", "x", "watts of tier 1"),
        ("tier 1 most_stages", 1.5, "most_stages of tier 1"), ("tier 1 most_stages", 10_001, "most_stages of tier 1"),
        ("tier 1 most_stages", True, "most_stages of tier 1"), ("tier 1 name", "a\x1b[31m", "name of tier 1"),
        ("tier 1 name", "a" * 101, "name of tier 1"), ("tier 1 speed", 1, "speed"), ("link", [], "'link'"),
        ("link 0 megabits_per_second", 0, "megabits_per_second of link 0"), ("link 0", LONG, "link 0"),
        ("link 0 round_trip_ms", 1e400, "round_trip_ms of link 0"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(place, value, named):
    at = content = copy.deepcopy(GOOD)
    *way, last = (int(step) if step.isdigit() else step for step in place.split())
    for step in way:
        at = at[step]
    at[last] = value
    with pytest.raises(InputError, match=named):
        tiers_from(content)


TIER = '[[tier]]\nname = "a"\nms_per_unit = 1\n'
KEY = ".".join("a" * 30_000) + " = 1\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "x =", "TOML"), ("b.json", "[" * 100_000, "at most 65536 bytes"), ("c.json", "3", "a table with"),
        ("d.toml", "", "given"), ("e.toml", "#" * 65_537, "at most 65536 bytes"),
        ("a.json", '{"model": {"input_bytes": 1, "input_bytes": 5}, "tier": []}', "twice"),
        ("a.json", '{"model": {"input_bytes": 1' + "0" * 400 + "}}", "digits"),
        ("a.json", '{"model": {"input_bytes": NaN}}', "no JSON"), ("a.json", "[" * 40 + "]" * 40, "deep"),
        ("a.toml", "[model]\ninput_bytes = 1" + "0" * 400 + "\n" + TIER, "input_bytes"),
        ("a.toml", "[model]\ninput_bytes = 0x1" + "0" * 9999 + "\n" + TIER, "too long to print"),
        ("a.toml", "[model]\ninput_bytes = 1\ninput_bytes = 2\n" + TIER, "TOML"), ("a.toml", KEY, "8 parts"),
        ("a.toml", "[" + KEY[:-5] + "]\n", "8 parts"), ("a.toml", "model = {" + KEY[:-1] + "}\n", "8 parts"),
        ("a.toml", "'a' . \"b\" ." * 9 + "c = 1", "8 parts"),
        # Text that would hide the key, were strings and comments not read as TOML reads them.
        ("a.toml", '# """\n' + KEY + '# """\n', "8 parts"), ("a.toml", "x = \"'''\"\n" + KEY + "#'''\n", "8 parts"),
        ("a.toml", 'x = [{y = """z"""", ' + KEY[:-4] + '= "1"}]', "8 parts"), ("a.toml", "a" * 60_000, "TOML"),
        ("a.toml", "x = " + "[" * 20 + "]" * 20, "16 deep"), ("a.toml", "x = " + "{a=" * 20 + "1" + "}" * 20, "16 deep"),
        ("a.toml", "x = " + '"""\\' * 12_000, "TOML"), ("a.toml", "x = " + '"\\' * 30_000, "TOML"),
    ],
    ids=range(24),
)  # fmt: skip
def test_what_would_take_long_or_mean_two_things_is_refused_at_once(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    began = time.process_time()
    with pytest.raises(InputError, match=said):
        load_tiers(tmp_path / name)
    assert time.process_time() - began < 1.0
    with pytest.raises(InputError, match="must be a file"):
        load_tiers(tmp_path / "none.toml")


def test_dots_in_text_are_no_parts_of_a_key(tmp_path):
    dots = "a." * 40 + "[" * 40
    text = (
        f'currency = "USD" # {dots}\nmodel.input_bytes = 784.5\nmodel.unit = """{dots[64:96]}"""\n'
        f"[[tier]]\nname = '{dots[-80:]}'\nstage_ms = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]\n"
    )
    (tmp_path / "a.toml").write_text(text)
    tiers = load_tiers(tmp_path / "a.toml")
    assert tiers.unit == dots[64:96] and len(tiers.tiers[0].stage_ms) == 9
