"""Policy, expert and online files: valid by schema; damaged, a named error or the very object.

Twisted and signed again, as a forger would: what loads is what the file says, fits the schema, and decides.
"""

import json
import os
import random

import numpy as np
import pytest
import rules
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import SETTINGS, Guard, damaged, difference, in_batches, signed, text_of, twisted
from random_routes import random_family, random_routing
from rules import C, artifact, experts, families, online_policies, policies, schema_of, validator

from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.schema import schemas
from policyopt._export.symbolic import trace_policy
from policyopt.runtime import _strict_json as strict_json
from policyopt.runtime._answers import ANSWERS
from policyopt.runtime._bandits import make_bandit
from policyopt.runtime._calibrators import CALIBRATORS
from policyopt.runtime._errors import InputError
from policyopt.runtime._experts import ExpertPolicy, experts_to_dict, load_any
from policyopt.runtime._family import PolicyFamily, family_to_dict
from policyopt.runtime._online import Controller, Online
from policyopt.runtime._online.serving import online_to_dict
from policyopt.runtime._policy import load_policy, to_dict
from policyopt.runtime._routing import RoutingPolicy, routing_to_dict
from policyopt.runtime._scores import RULES
from policyopt.runtime._several import Several
from policyopt.runtime._strict_json import MAX_DEPTH, parse

routings = {
    f"routing {kind}": random_routing(3, kind, arms=2, query=kind == "summary", models=4)
    for kind in ("logits", "logit", "summary")
}
routed = {
    f"routing {kind}": random_family(3, kind, query=kind == "summary", timed=kind == "logit")
    for kind in ("logits", "logit", "summary")
}
#: Batches (10,000 cases), how files are loaded, and what is in them.
KINDS = {
    "policies": (42, load_policy, policies), "experts": (12, load_any, lambda: {"experts": experts()}),
    "families": (15, load_any, lambda: families() | routed), "routing": (12, load_any, lambda: routings), "online": (19, Online.load, lambda: online_policies() | steered()),
}  # fmt: skip
OUTPUTS = np.random.default_rng(3).normal(size=(4, 6, C))
FEATURES = np.random.default_rng(4).normal(size=(4, 3))


def steered():
    bandit = Online(random_family(3), make_bandit("exp3"), overhead=(0.1, 0.2), reveal="played")
    found = {
        "routing controller": Online(random_family(3), Controller(0.4)),
        "routing exp3": bandit,
    }
    for value in found.values():
        decides(value)
    return found


def whole(value):
    if isinstance(value, Online):
        return json.loads(json.dumps(online_to_dict(value, max(value._saves, 1))))
    if isinstance(value, RoutingPolicy):
        return json.loads(json.dumps(routing_to_dict(value)))
    if isinstance(value, PolicyFamily):
        return json.loads(json.dumps(family_to_dict(value)))
    if isinstance(value, ExpertPolicy):
        return json.loads(json.dumps(experts_to_dict(value)))
    return artifact(value)


def decides(value):
    """Use what was loaded: it decides (an online policy learns from it, too), or refuses the outputs by name."""
    with np.errstate(all="ignore"):
        try:
            if isinstance(value, Online):
                for row in OUTPUTS[:2]:
                    request = value.start()
                    while value.family.routes and request.next is not None:
                        output = np.resize(row, max(value.family.classes, 1))
                        value.decide(request.next, output, request)
                    for at, k in enumerate(
                        () if value.family.routes else value.family.policy.active_exits
                    ):
                        if value.decide(k, row[at % 6], request, FEATURES[0]).exit:
                            break
                    value.feedback(request)
                return
            if isinstance(value, RoutingPolicy) or getattr(value, "routes", False):
                return routes(value)
            more = [np.zeros(4, dtype=np.int64)] if isinstance(value, Several) else []
            outputs = OUTPUTS[:, [k % 6 for k in range(min(value.model_exits, 50))]]
            vectors = [FEATURES] * len(outputs[0]) if value.needs_features else None
            exits = value.decide(outputs, *more, features=vectors).exit
        except InputError:
            return
    assert ((exits >= 0) & (exits < value.model_exits)).all()


def routes(value):
    n, c = 4, max(value.classes, 1)
    outputs = np.abs(OUTPUTS[:, :1, :1]) + np.zeros(
        (n, value.model_exits, 1 if value.kind == "logit" else c)
    )
    if value.kind == "summary":
        outputs = [{"confidence": np.full(n, 0.7), "prediction": np.arange(n)}] * value.model_exits
    more, one = {}, value
    if isinstance(value, Several):
        more, one = {"level": np.arange(n) % len(value)}, value.at(0)
    query = np.ones((n, one.needs_query)) if one.needs_query else None
    exits = value.decide(outputs, **more, query=query).exit
    assert ((exits >= 0) & (exits < value.model_exits)).all()


def one_case(draw, number, source, loader, path, guard):
    name, content, data, told = source
    forged = draw.random() < 0.5
    twist = signed(twisted(draw, content)) if forged else None
    data = text_of(twist) if forged else damaged(draw, data)
    path.write_bytes(data)
    what = (*number, name, data)
    value = guard.load(lambda: loader(path), len(data), what)
    if value is None:
        return
    if not forged:
        assert json.dumps(whole(value), sort_keys=True) == told, what
        return
    where = difference(twist, whole(value))  # nothing that was said may go
    assert where is None, (where, what)
    if number[1] % 4 == 0:
        errors = list(validator(schema_of(twist)).iter_errors(twist))
        assert not errors, (errors[0].message[:300], what)
    try:
        decides(value)
    except Exception as error:
        error.add_note(repr(what)[:3000])
        raise


@pytest.mark.parametrize("kind", KINDS)
def test_files(kind, room, root):
    """As written they are valid; then batches of files, half of them damaged, half twisted and signed."""
    examples, loader, made = KINDS[kind]
    found = {name: (text_of(whole(value)), value) for name, value in made().items()}
    if kind == "policies":
        golden = (root / "tests" / "golden").glob("policy_*.json")
        found |= {path.name: (path.read_bytes(), load_policy(path)) for path in sorted(golden)}
    sources = [
        (name, json.loads(data), data, json.dumps(whole(value), sort_keys=True))
        for name, (data, value) in found.items()
    ]
    guard, path = Guard(), room / "file.json"
    for name, content, data, _ in sources:  # what is imported at first use is not the file's doing
        path.write_bytes(data)
        assert loader(path) is not None, name
        decides(loader(path))
        rules.assert_valid(content)
        rules.assert_valid(whole(loader(path)))

    def case(draw, number):
        one_case(draw, number, draw.choice(sources), loader, path, guard)

    in_batches(case, guard, examples)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**38), 10**38),
)  # fmt: skip
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@settings(max_examples=500, **SETTINGS)
@given(DOCUMENTS, st.integers(0, 2**32))
def test_what_json_holds_is_read_as_it_is(document, seed):
    """Strict reading refuses more than Python; what it takes, it takes as `json` does."""
    plain, raw = json.dumps(document), json.dumps(document, ensure_ascii=False)
    found = parse(plain.encode(), "x", 1 << 20, "")
    assert json.dumps(found) == plain
    assert "\\ud" in plain or parse(raw.encode(errors="surrogatepass"), "x", 1 << 20, "") == found
    data = damaged(random.Random(seed), plain.encode())
    try:
        found = parse(data, "x", 1 << 20, "")
    except InputError:
        return
    assert json.dumps(found) == json.dumps(json.loads(data))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "JSON"), (b"\xef\xbb\xbf{}", "byte order mark"), (b"\xff\xfe{\x00}\x00", "JSON.*utf-8"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"), (b"[NaN]", "NaN"), (b"[-Infinity]", "Infinity"),
        (b"[1e400]", "1e400, beyond"), (b"[" + b"9" * 5000 + b"]", "5000 digits"),
        (b"[" * 10**4, f"at most {MAX_DEPTH} deep"), (b'{"a":' * 33 + b"1", "deep"),
        (b"[" + b"[]," * 2**18 + b"1]", "at most 131072 values"), (b'"' + b"x" * 70000 + b'"', "strings up to"),
        (b'"' + b'\\"' * 40000, "strings up to"), (b'["' + b"]" * 99 + b'", "[[[[{{{{"]x', "Extra data"),
        (b"[1] [2]", "Extra data"), (b"'a'", "JSON"), (b'"\x00"', "JSON"), (b'"\xed\xa0\x80"', "JSON"),
    ],
)  # fmt: skip
def test_odd_json_is_refused_by_name(data, says):
    refuses(f"(?s)^'x' must be .*{says}.*Mend it", parse, data, "x", 1 << 20, "Mend it.")


def test_odd_places_are_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "large").write_bytes(b" ")
    os.truncate(tmp_path / "large", 1 << 40)  # a hole: it takes no disk
    places = {
        "pipe": "pipe", ".": "directory", "circle": "symbolic links", "gone": "missing",
        "nothing": "missing", "large": "at most", "a\0b": "null", "/dev/zero": "device",
    }  # fmt: skip
    for loader in (load_policy, load_any, Online.load):
        for place, says in places.items():
            refuses(says, loader, tmp_path / place)
    content = artifact(policies()["score max_prob"])
    (tmp_path / "p.json").write_bytes(text_of(content))
    (tmp_path / "link").symlink_to(tmp_path / "p.json")
    assert to_dict(load_policy(tmp_path / "link")) == content  # a link that the user put there


def test_what_could_not_be_read_is_not_written(tmp_path):
    odd, deep = policies()["score max_prob"], []
    for _ in range(40):
        deep = [deep]
    for value, says in (("x" * 70000, "strings up to"), (deep, "deep")):
        object.__setattr__(odd, "provenance", {"note": value})
        refuses(says, odd.save, tmp_path / "p.json")
    assert not list(tmp_path.iterdir())
    for content, most, says in (([1] * 12, 100, "12 values"), (["x" * 30], 30, "30 bytes")):
        refuses("at most " + says, strict_json.to_text, content, "policy", most)


def test_the_files_in_docs_are_what_the_code_makes_and_every_rule_has_a_sample():
    made = schemas()
    assert {path.name for path in rules.DOCS.glob("*.schema.json")} == set(made)
    for file, schema in made.items():
        text = (rules.DOCS / file).read_text()
        again = "python -m policyopt._export.schema docs"
        assert text == json.dumps(schema, indent=1) + "\n", f"{file} is stale: {again}"
    assert set(rules.SCORES) == set(RULES) and set(rules.ANSWERS) == set(ANSWERS)
    assert set(rules.CALIBRATORS) == set(CALIBRATORS)


def test_manifests_of_exports_are_valid_and_those_of_fewer_fields_are_not(tmp_path):
    """Of a mixture that draws by a coin, ONNX graphs too."""
    pytest.importorskip("onnx")
    policy, out = policies()["mixture of two scores"], tmp_path / "out"
    golden = golden_of(policy, trace_policy(policy), rows=20)
    write_bundle(policy, out, ["python", "c", "onnx"], golden)
    bundle, graphs = (json.loads((out / at / "manifest.json").read_text()) for at in ("", "onnx"))
    for content in (bundle, graphs, artifact(policy)):
        rules.assert_valid(content)
        less = [{n: value for n, value in content.items() if n != name} for name in content]
        for wrong in (*less, {**content, "extra": 1}, {**content, "version": 9}):
            assert not validator(schema_of(content)).is_valid(wrong), wrong
