r"""Hostile text in every field of every file: it is neither run nor breaks anything, and is shown harmless.

40 policies; more by ``HOSTILE=5000 pytest -n 0 tests/fuzz/test_hostile_text.py``, as SECURITY.md tells.
"""

import copy
import csv
import io
import json
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import printed
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import SETTINGS, paths, signed
from rules import artifact, experts, online_policies, policies
from synthetic import outputs
from typer.main import get_command

import policyopt as po
from policyopt._cli.app import app
from policyopt._tiers.tier_policy import TierPolicy, load_tier
from policyopt.runtime._errors import InputError
from policyopt.runtime._online import Online
from policyopt.runtime._policy import from_dict

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
PARSER = get_command(app)
POLICIES = int(os.environ.get("HOSTILE", 40))
#: Each with {py} and {c} in the place of code that makes the canary's file.
PIECES = (
    '"""\n{py}\n"""', "'''\n{py}\n'''", '"\n{py}\n"', '\\"""\n{py}\n#', "'+{py}+'", "{py}", "{{py}}",
    '\\\n{py}', "\n{py}\n", "# coding: utf-7\n", "*/\n{c}\n/*", '"\n{c}\n"', "\\\n{c}\n", "??/\n{c}\n",
    "*??/\n/ {c}", "//{c}", "??'", "%>", '"', '"""', "'", "\\", "\\x", "\\N{", "\\u12", "\\777", "*/", "/*",
    "\ud800", "a\udfff", "\ud83d\ude42", "\x00", "\x1b[2J\x1b]0;title\x07", "\x1b]8;;http://a.b\x1b\\x", "\x9b31m",
    "\u202etxt.exe\u202c", "\u2066", "\u200b", "\u2028", "\ufeff", "\ufffe", "\U000e0041", "\r\nerror: 1", "\n",
    "\t=1+1", "\r=1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", " =1", "＝1", "-0.3", "1e5",  # noqa: RUF001
    "@", "@_state", "@PROBABILITIES", "{name}", "{0}", "{", "%s%n", "$", "$\\bad{$", "$\\frac{a$", "$$",
    "[red]", "[/]", "[link=http://a.b]c[/link]", ":smile:", "<script>alert(1)</script>", "../../etc/passwd",
    "http://me:hunter2@host/", "x" * 60_000, "=" * 9000, "µ 漢字 🙂", "", " ", "nan",
)  # fmt: skip


@pytest.fixture
def canary(tmp_path):
    """A file that hostile code would make, named by its whole path."""
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists(), "text of a file was run"


def texts(canary):
    """Return texts that are made of pieces, or of anything."""
    python = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    c = (
        "__attribute__((constructor)) static void boom(void) { extern int system(const char *); "
        f'system("touch {canary}"); }}'
    )
    pieces = st.sampled_from([piece.replace("{py}", python).replace("{c}", c) for piece in PIECES])
    return st.one_of(
        pieces, pieces, st.lists(pieces, max_size=3).map("".join), st.text(max_size=40),
        st.text(st.characters(min_codepoint=0, max_codepoint=0x9F), max_size=20),
        st.text(st.characters(categories=["Cs", "Cf", "Co", "Zl", "Zp"]), max_size=9),
    ).map(lambda text: text[:65_000])  # fmt: skip


def units(canary):
    own = ("ms", 'm"s\\', "*/@??/", "µJ", "%s$\\n", "@_state", "'''", "{0}", "=1+1")
    return st.one_of(st.sampled_from(own), texts(canary).filter(visible))


def visible(unit):
    return 0 < len(unit) <= 32 and unit.isprintable() and bool(unit.strip())


def tell(*arguments, run=None):
    """Run a command line, here or as `run` does; return its exit code and what it printed, found harmless."""
    code, out, err = (run or printed)(*arguments)
    harmless(code, out, err, arguments)
    return code, out, err


def done(*arguments, run=None):
    """Run a command line that must not be refused; return what it printed."""
    code, out, err = tell(*arguments, run=run)
    assert code == 0, (arguments, err)
    return out


@pytest.fixture(autouse=True)
def parser(monkeypatch):
    """Made once: it takes longer than a command."""
    monkeypatch.setattr("policyopt._cli.app.app", PARSER)


def process(*arguments):
    command = [sys.executable, "-m", "policyopt", *map(str, arguments)]
    run = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    return run.returncode, run.stdout, run.stderr


def harmless(code, out, err, arguments=()):
    """Fail where a terminal or a spreadsheet would do something with what was printed."""
    told = (arguments, code, out[-500:], err[-500:])
    assert code in (0, 2), told
    odd = {c for c in out + err if not c.isprintable()} - {"\n"}
    assert not odd, (odd, told)
    assert "hunter2" not in out + err or "json" in arguments, told  # JSON is what the file says
    lines = err.splitlines()
    assert all(re.match("(note|error): |.* \\.\\.\\.$", line) for line in lines), told
    assert len(err) < 5000, told
    assert (code == 0) == (not any(line.startswith("error: ") for line in lines)), told
    if "csv" in arguments:
        for row in csv.reader(io.StringIO(out)):
            for cell in row:
                number = re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?%?", cell)
                assert number or cell.lstrip()[:1] not in tuple("=+-@＝＋－＠") or not cell, told  # noqa: RUF001


def provenance(text):
    """Return what a policy may say of how it was found, each text in it hostile or not."""
    anything = st.one_of(text, st.lists(text, max_size=2), st.dictionaries(text, text, max_size=2))
    names = "method budget notes settings cache cost versions expected_cost seed"
    fields = st.sampled_from(names.split()) | text
    usual = st.fixed_dictionaries({"method": text, "budget": text})
    chosen = st.fixed_dictionaries({"chosen": st.fixed_dictionaries({"method": text})})
    return st.one_of(usual, usual, chosen, st.dictionaries(fields, anything, max_size=4))


def test_policies_are_exported_verified_and_shown(canary, room):
    """One of eight by a C compiler too, one of twenty in a process of its own."""
    assert shutil.which("cc") or not os.environ.get("CI"), "continuous integration has a C compiler"
    names = ("records", "score max_prob", "mixture of one score", "score trust_score", "kept exits")
    known, file, out = policies(), room / "p.json", room / "out"
    targets = ["python"] * 7 + ["python,c"] * bool(shutil.which("cc"))
    seen = []

    @settings(max_examples=POLICIES, **SETTINGS)
    @given(
        st.sampled_from((*names[:1] * 6, *names)), provenance(texts(canary)), units(canary),
        st.sampled_from(targets), st.sampled_from([None] * 19 + [process]),
    )  # fmt: skip
    def shown(name, told, unit, target, run):
        content = signed({**artifact(known[name]), "provenance": told, "unit": unit})
        file.write_text(json.dumps(content))
        for style in ("table", "csv", "json"):
            found = done("info", file, "--format", style)
        assert json.loads(found)["provenance"] == json.loads(json.dumps(told))
        done("export", file, "--out", out, "--to", target, "--rows", 4, run=run)
        done("verify", out, "--require", target, run=run)
        # Two languages read it for themselves, and say the unit as the file has it.
        assert runpy.run_path(str(out / "policy.py"))["UNIT"] == unit
        if target == "python,c":
            (room / "say.c").write_text(
                '#include <stdio.h>\n#include "out/policyopt_policy.h"\n'
                "int main(void) { fputs(POLICYOPT_POLICY_UNIT, stdout); return 0; }\n"
            )
            build = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "say.c", "-o", "say", "-lm"]
            subprocess.run(build, cwd=room, check=True)
            assert subprocess.run([room / "say"], stdout=-1).stdout.decode() == unit
        assert not canary.exists(), (told, unit)
        seen.append(target)

    shown()
    assert len(seen) >= POLICIES and set(seen) == set(targets)
    print(f"{len(seen)} policies exported and verified, {seen.count('python,c')} by a compiler")


def tiers(unit, device, cloud):
    return {
        "model": {"input_bytes": 784, "cut_bytes": [10, 10], "unit": unit}, "currency": unit,
        "tier": [{"name": device, "ms_per_unit": 1.0}, {"name": cloud, "ms_per_unit": 0.1}],
        "link": [{"megabits_per_second": 8}],
    }  # fmt: skip


def with_text(draw, content, text):
    """Return JSON content with a text of it, or a name of a field, made hostile, and signed anew."""
    content = copy.deepcopy(content)
    places = [p for p in paths(content) if isinstance(p[-1], str)]
    path = draw.choice(places)
    at = content
    for key in path[:-1]:
        at = at[key]
    if isinstance(at[path[-1]], str) or draw.random() < 0.3:
        at[path[-1]] = text
    else:
        at[text] = at.pop(path[-1])
    return signed(content)


def cache_of(folder, cost, rows=400, **facts):
    logits, labels = outputs(rows, 3, 3)
    with po.CacheWriter(folder, costs=cost, **facts) as cache:
        for split, part in (("fit", slice(0, rows // 2)), ("test", slice(rows // 2, rows))):
            context = {"context": labels[part] % 2} if "contexts" in facts else {}
            cache.append(split, logits[part], labels[part], **context)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    facts = {"metadata": {"model": "m", "why": {"a": "b"}}, "contexts": ["sun", "rain"]}
    folder = tmp_path_factory.mktemp("hostile") / "cache"
    return cache_of(folder, po.Cost("compute", "ms", (1, 2, 4)), 60, **facts)


def test_every_text_of_every_file(canary, room, small):
    """Loaders take it or refuse it by name; what is told of it is harmless."""
    one, file, manifest = policies()["score max_prob"], room / "file.json", small / "manifest.json"
    policy, tier, online, export = (room / x for x in ("p.json", "t.json", "o.json", "export"))
    online_policies()["ucb1"].save(online)
    TierPolicy(one, "device", (0, 1), "cloud").save(tier)
    one.save(policy)
    experts().save(room / "experts.json")
    (room / "tiers.json").write_text(json.dumps(tiers("ms", "device", "cloud")))
    done("export", policy, "--out", export, "--to", "python", "--rows", 4)
    plan = ("plan", small, "--tiers", file, "--budget", 3, "--method", "none")
    exported = export / "manifest.json"
    cases = [
        (path, json.loads(source.read_text()), look) for path, source, look in (
            (file, policy, lambda: tell("info", file)), (file, tier, lambda: load_tier(file)),
            (file, room / "experts.json", lambda: tell("info", file)),
            (file, online, lambda: Online.load(file)),
            (file, room / "tiers.json", lambda: tell(*plan)),
            (manifest, manifest, lambda: tell("info", small)),
            (exported, exported, lambda: tell("verify", export)),
        )
    ]  # fmt: skip

    @settings(max_examples=max(POLICIES, 200), **SETTINGS)
    @given(st.sampled_from(cases), texts(canary), st.integers(0, 1 << 30))
    def read(case, text, seed):
        path, content, look = case
        before = path.read_bytes() if path.exists() else b""
        try:
            path.write_text(json.dumps(with_text(random.Random(seed), content, text)))
            look()
        except InputError as error:
            harmless(2, "", f"error: {error}\n")
        finally:
            path.write_bytes(before)
        assert not canary.exists(), (path, text)

    read()


def test_keys_and_names_of_imported_files(canary, tmp_path):
    logits, labels = outputs(40, 2, 3)
    rows = [{"pred": [0, 1], "conf": [0.5, 0.9], "label": 1}] * 20

    @settings(max_examples=40, **SETTINGS)
    @given(texts(canary), st.sampled_from(("npz", "csv", "jsonl", "--split", "cell", "--unit")))
    def read(text, kind):
        text = text[:300]
        safe = text.encode("utf-8", "replace").decode()
        source = tmp_path / f"x.{kind if kind in ('csv', 'jsonl') else 'npz'}"
        if kind == "csv":
            with source.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
                writer = csv.writer(file)
                writer.writerow(["label", "pred_0", "conf_0", "pred_1", "conf_1", text])
                writer.writerows([[1, 0, 0.5, 1, 0.9, text]] * 20)
        elif kind == "jsonl":
            source.write_text("".join(json.dumps({**row, text: text}) + "\n" for row in rows))
        else:
            given = {"logits": logits.transpose(1, 0, 2), "labels": labels, "costs": [1.0, 2.0]}
            key = safe[:60] if kind == "npz" else ""
            given |= {"costs": np.array([safe] * 2)} if kind == "cell" else {key or "x": labels}
            np.savez(source, **{"file_" if name == "file" else name: v for name, v in given.items()})  # fmt: skip
        more = {"--split": f"{text}=0.5,test=0.5".replace("\0", ""), "--unit": text}
        words = (kind, more[kind]) if kind in more else ()
        if tell("import", source, "--out", tmp_path / "cache", "--overwrite", *words)[0] == 0:
            done("info", tmp_path / "cache")

    read()


@pytest.mark.parametrize("unit", ["$\\frac{$", "=1+1 [/red] {0} %s 漢字 🙂"])
def test_pictures_tables_and_spreadsheets(canary, tmp_path, unit):
    """Units and methods that are mathematics to a picture, markup to a table, a formula to a spreadsheet."""
    data = cache_of(tmp_path / "c$x$", po.Cost("compute", unit, (1, 2, 4)))
    file, plan = tmp_path / "p.json", tmp_path / "t.json"
    po.fit(po.open_cache(data), 2.5, "max_prob").policy.save(file)
    content = json.loads(file.read_text())
    for method in (f"{unit}\n$\\bad{{$", "\x1b[31m$"):
        content["provenance"] |= {"method": method, "chosen": {"method": method}}
        file.write_text(json.dumps(signed(content)))
        done("evaluate", file, data, "--format", "csv")
        for command in (
            ("evaluate", file, data), ("calibration", data, "--policy", file),
            ("explain", file, data, "--out", tmp_path / "e", "--reference", file),
        ):  # fmt: skip
            out = done(*command)
        assert unit in out
    plan.write_text(json.dumps(tiers(unit, "_$\\bad{$", "[/b] =1")))
    for command in (
        ("curve", data, "--methods", "max_prob", "--budgets", "2"),
        ("plan", data, "--tiers", plan, "--budget", 3, "--method", "none"),
        ("simulate", data, "--rounds", 100, "--repetitions", 2, "--arms", 2),
    ):
        out = done(*command, "--out", tmp_path / command[0])
        assert command[0] != "simulate" or unit in out
        assert list((tmp_path / command[0]).glob("*.png"))
    assert {path.name for path in tmp_path.glob("e/*.png")} >= {"exits.png", "changes.png"}


def test_a_megabyte_is_refused_in_few_words(tmp_path):
    content, file = artifact(policies()["score max_prob"]), tmp_path / "p.json"
    for told, unit in (({"method": "x" * (1 << 20)}, "ms"), ({}, "\x1b" * (1 << 20))):
        file.write_text(json.dumps(signed({**content, "provenance": told, "unit": unit})))
        code, _, err = tell("info", file)
        assert code == 2 and len(err) < 500
    for unit in ("", " ", "m" * 33, "ms\n", "\u202ems", "\ud800", None):  # in memory too
        with pytest.raises(InputError, match="unit"):
            from_dict(signed({**content, "unit": unit}))
        with pytest.raises(InputError, match="unit"):
            po.Cost("compute", unit, (1, 2))


def test_passwords_of_a_storage_are_masked(small, tmp_path):
    for url in (
        "postgresql://me:hunter2@h/db", "nothing+at.all://me:hunter2@h/db", "me:hunter2@h", "a:/me:hunter2@h",
        "postgresql://me:hunter2@hunter2@h:port/db", f"sqlite:///{tmp_path}/no/s.db?password=hunter2",
        "mysql://me:hunter2 or so?@h/db", "redis://:hunter%32@h", "mysql://h/db?api_key=hunter2",
    ):  # fmt: skip
        command = ("tune", small, "--method", "margin", "--storage", url, "--out", tmp_path / "t")
        for more in ((), ("--debug",)):
            code, out, err = printed(*command, *more)
            assert code == 2 and "'storage'" in err and "hunter" not in out + err, err
    long = "hunter2" * 50
    for words in (
        ("tune", small, "--method", "margin", "http://me:hunter2@h"),
        ("tune", small, "--method", "margin", "--cost", "http://u@corp:hunter2@h/db"),
        ("info", "mysql://u:hunter2@h/db"), ("evaluate", f"mysql://u:{long}@h/db", small),
    ):  # fmt: skip
        _, out, err = printed(*words)
        # Of the address of a cache the part before the host is left out.
        assert ("***" in err or "//h/db" in err) and "hunter" not in out + err, err


def test_no_header_is_written_that_does_not_compile(tmp_path, monkeypatch):
    (tmp_path / "p.json").write_text(json.dumps(artifact(policies()["records"])))
    line, out = ("export", tmp_path / "p.json", "--to", "c", "--out"), tmp_path / "out"
    if shutil.which("cc"):
        monkeypatch.setenv("CC", "cc -Dpolicyopt_policy_step=1")
        code, _, err = tell(*line, out)
        assert code == 2 and "compiles" in err and not out.exists()
    for broken in ("false", "true", 'gcc "'):
        monkeypatch.setenv("CC", broken)
        assert done(*line, out) and "code not measured" in (out / "policyopt_policy.h").read_text()
        code, told, _ = printed("verify", out, "--require", "c", "--format", "json")
        (said,) = (row["absent"] for row in json.loads(told) if row["runtime"] == "c")
        assert code == 4 and f"'CC' must be a C compiler. Got {broken}" in said


def test_a_letter_in_two_halves_is_read_back(tmp_path):
    """JSON joins them, which changes the order of the keys that the checksum is of."""
    told = {"\ud83d\ude42": 1, "\ud8cb": "\ud83d\ude42", "\uffee": 2}
    replace(policies()["records"], provenance=told).save(tmp_path / "p.json")
    assert po.load_policy(tmp_path / "p.json").provenance == json.loads(json.dumps(told))
