"""Ranking with corrected tests, tables and figures for a paper, and the pictures that the repository links."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import printed
from matplotlib.colors import to_hex
from scipy import stats
from synthetic import cache, outputs

import policyopt as po
from policyopt._report import figures as draw
from policyopt._study.study import Study
from policyopt._tables import escaped, paper_table
from policyopt._testing import gaps, ranked

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["w", "x", "y", "z"]


def errors(rows):
    """Squared standard errors of differences of columns, (M, M)."""
    shared = np.cov(rows, rowvar=False) / len(rows)
    return np.diag(shared)[:, None] + np.diag(shared) - 2 * shared


def rows_of(rng, better):
    """One seed: 300 rows."""
    rows = rng.normal(size=(300, 1)) + rng.normal(size=(300, 4)) + better
    return rows.mean(axis=0)[None], errors(rows), 300, 0.0, False


def divisions_of(rng, better):
    """Six divisions of 500 rows into 300 that fit and 200 that test; what fitting makes of rows is part of the means."""
    worth, influence = rng.normal(size=(500, 4)) + better, 0.7 * rng.normal(size=(500, 4))
    means, spread = [], 0.0
    for _ in range(6):
        order = rng.permutation(500)
        tested = worth[order[300:]] + influence[order[:300]].mean(axis=0)
        means.append(tested.mean(axis=0))
        spread = spread + errors(tested) / 6
    return np.array(means), spread, 200, 200 / 300, False


def refits_of(rng, better):
    """A fit on 300 rows and five on 80 % of them, replayed on the same 400 rows."""
    worth, influence = rng.normal(size=(400, 4)) + better, 0.7 * rng.normal(size=(300, 4))
    fits = [influence.mean(axis=0)]
    fits += [influence[rng.permutation(300)[:240]].mean(axis=0) for _ in range(5)]
    return worth.mean(axis=0) + np.array(fits), errors(worth), 400, 4.0, True


@pytest.mark.parametrize("drawn", [rows_of, divisions_of, refits_of])
def test_methods_that_are_equal_are_told_apart_in_five_of_a_hundred_and_others_are(drawn):
    rng, runs = np.random.default_rng(0), 400
    wrong = naive = found = 0
    for _ in range(runs):
        means, *how = drawn(rng, 0.0)
        _, pairs, groups = ranked(NAMES, means.mean(axis=0).tolist(), gaps(means, *how))
        wrong += min(pair["holm_p"] for pair in pairs) <= 0.05
        assert (len(set(groups.values())) > 1) == (min(p["holm_p"] for p in pairs) <= 0.05)
        if len(means) > 1:  # divisions taken for independent ones
            each = [stats.ttest_rel(means[:, a], means[:, b]).pvalue for a, b in ((0, 1), (2, 3))]
            naive += min(each) <= 0.025
        means, *how = drawn(rng, np.array([1.0, 0.0, 0.0, 0.0]))
        found += ranked(NAMES, means.mean(axis=0).tolist(), gaps(means, *how))[2]["w"] == "a"
    assert wrong / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5
    assert found / runs > 0.95
    assert drawn is rows_of or naive / runs > 0.15  # the correction is needed


def test_tests_are_those_of_the_papers():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 2))
    gap, error, free = gaps(rows.mean(axis=0)[None], errors(rows), 50, 0.0, False)
    wanted = stats.ttest_rel(*rows.T)
    assert gap[0, 1] / error[0, 1] == pytest.approx(wanted.statistic) and free[0, 1] == 49
    _, (pair,), _ = ranked(["a", "b"], rows.mean(axis=0).tolist(), (gap, error, free))
    assert pair["p"] == pytest.approx(wanted.pvalue)
    # Nadeau & Bengio, section 3, by hand.
    means = rng.normal(size=(10, 2))
    off = means[:, 0] - means[:, 1]
    gap, error, free = gaps(means, np.zeros((2, 2)), 90, 90 / 810, False)
    wanted = off.mean() / ((1 / 10 + 90 / 810) * off.var(ddof=1)) ** 0.5
    assert gap[0, 1] / error[0, 1] == pytest.approx(wanted) and free[0, 1] == 9
    # Few divisions that agree by chance are no proof: the rows' own error stays.
    gap, error, _ = gaps(np.array([[0.1, 0.0]] * 2), np.full((2, 2), 0.01), 90, 1.0, False)
    assert error[0, 1] > 0.05


def test_compare_ranks_over_rows_divisions_and_refits():
    logits, labels = outputs(1500)
    splits = {
        name: {"outputs": logits[at], "labels": labels[at]}
        for name, at in {"fit": slice(0, 700), "test": slice(700, 1500)}.items()
    }
    named = po.from_arrays(splits=splits, costs=[1, 2, 3, 4], unit="ms")
    for data, seeds, test in (
        (named, 1, "rows"),
        (named, 3, "refits"),
        (cache(1500), 3, "divisions"),
    ):
        frontier = po.curve(data, ["random", "max_prob", "margin"], 3, seeds=seeds)
        found = po.compare(frontier, "random")
        assert found.test == test and found.seeds == seeds
        assert {one["seed"] for one in found} == {*range(seeds), *([None] if seeds > 1 else [])}
        means = [one for one in found.ranking if one["budget"] is None]
        assert [one["rank"] for one in means] == [1, 2, 3]
        assert means[-1]["method"] == "random" and means[-1]["difference"] is None
        assert "a" in means[0]["group"] and means[0]["among_best"]
        assert means[0]["difference_low"] < means[0]["difference"] < means[0]["difference_high"]
        assert len(found.pairs) == 3 * (1 + 3)
        for budget in {one["budget"] for one in found.ranking}:
            at = [one["quality"] for one in found.ranking if one["budget"] == budget]
            assert at == sorted(at, reverse=True)
        assert frontier.table("csv").splitlines()[0].startswith("method,")


def test_a_floor_is_ranked_at_what_the_reference_pays():
    frontier = po.curve(cache(1200), ["max_prob", "entropy"], [po.Target(max_drop=0.02)])
    found = po.compare(frontier)
    paid = next(r["realised_cost"] for r in frontier.records if r["method"] == "max_prob")
    assert [one["budget"] for one in found.ranking][::2] == [None, pytest.approx(paid)]


HOSTILE = (
    r"a_b & 50% $x$ #1 {\input{/etc/passwd}} ~^ <script>alert(1)</script> | `c` [d](e)" + "\n*f*"
)


def test_tables_show_names_letter_by_letter():
    columns = {
        "1": {HOSTILE: (0.5, 2), "b": (0.4, 1), "c": (0.1, 0)},
        "group": {HOSTILE: "a", "c": "b"},
    }
    latex = paper_table("latex", "method", [HOSTILE, "b", "c"], columns, "told 5 % (dagger)")
    assert latex.count(r"\begin{tabular}{lrr}") == latex.count(r"\end{tabular}") == 1
    rules = [line for line in latex.splitlines() if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4 and all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in lines)
    assert r"\textbf{50.00}" in latex and r"40.00$^\dagger$" in latex and "& 10.00 &" in latex
    name = escaped(HOSTILE, "latex")
    left = re.sub(r"\\[{}$&#%_]|\\text\w+\{\}|\{[-[]\}", "", name)
    assert not set(left) & set("\\{}$&#%_^~<>|`") and r"\input" not in name.replace(
        r"\textbackslash{}", ""
    )
    assert r"\caption{told 5 \% $^\dagger$}" in latex
    markdown = paper_table("markdown", "method", [HOSTILE, "b", "c"], columns, "told (dagger)")
    for line in markdown.splitlines()[:5]:
        assert len(re.findall(r"(?<!\\)\|", line)) == 4
    assert "<script" not in markdown and "**50.00**" in markdown and "40.00†" in markdown
    assert paper_table("csv", "method", ["=1+1"], {"1": {"=1+1": (0.5, 2)}}, "").endswith(
        "'=1+1,50.0\n"
    )
    with pytest.raises(po.InputError, match="style"):
        paper_table("word", "method", [], {}, "")


def test_a_study_has_such_a_table_too():
    budgets = [{"budget": 2.0, "contenders": ["b"], "best": "a", "quality": {"a": 0.9, "b": 0.8}}]
    models = [{"model": "a", "group": "a"}, {"model": "b", "group": None}]
    found = Study(models, budgets, [], [], [], [], "ms", 0.95).table("markdown")
    assert found.splitlines()[2:4] == ["| a | **90.00** | a |", "| b | 80.00† | - |"]


def test_of_many_methods_the_best_are_in_colour_and_all_are_named():
    names = ["always", "random", "max_prob", "entropy", "margin", "patience", "auto", "vote"]
    frontier = po.curve(cache(900), names, 3)
    axes = draw.frontier_figure(frontier).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    named = {
        name: next(of for told, of in lines.items() if re.split(r"[:\n]", told)[0] == name)
        for name in names
    }
    coloured = {
        name for name, of in named.items() if to_hex(of.get_color()) in map(str.lower, draw.COLOURS)
    }
    assert len(coloured) == 5 and not coloured & {"random", "always"}
    # Told apart without colour.
    looks = {(of.get_marker(), of.get_linestyle(), name in coloured) for name, of in named.items()}
    assert len(looks) == len(names)
    chosen = {
        f.policy.provenance["chosen"]["method"]
        for (m, *_), f in frontier.fitted.items()
        if m == "auto"
    }
    told = next(label for label in lines if label.startswith("auto:"))
    assert any(name in told for name in chosen)
    worth = {f"m{i}": float(i) for i in range(30)}
    axes = draw.new_figure(5, 5).add_subplot()
    draw._draw_lines(axes, dict.fromkeys(worth, np.ones((4, 2))), worth, 5, str)
    told = axes.get_legend_handles_labels()[1]
    assert {"m25", "m29", "95 % of the best"} < set(told) and len(told) == 7
    assert any("25 others, best first: m24, m23" in one for one in told)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    logits, labels = outputs(600)
    np.savez(folder / "o.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8])
    assert printed("import", folder / "o.npz", "--unit", "ms", "--out", folder / "c")[0] == 0
    return folder / "c"


def test_figures_are_of_the_kind_and_width_asked_for(run, data, tmp_path):
    line = ["curve", data, "--methods", "max_prob,margin", "--budgets", "2", "--figure"]
    for name, begins in (("c.pdf", b"%PDF-"), ("c.svg", b"<?xml"), ("c.png", b"\x89PNG")):
        assert run(*line, tmp_path / name, "--width", "column")[0] == 0
        assert (tmp_path / name).read_bytes().startswith(begins)
    svg, pdf = (tmp_path / "c.svg").read_text(), (tmp_path / "c.pdf").read_bytes()
    assert "margin</text>" in svg.replace("\n", "") and 'width="244.8pt"' in svg
    assert b"/FontFile2" in pdf and b"/FontFile3" not in pdf  # TrueType, and no other
    width = int.from_bytes((tmp_path / "c.png").read_bytes()[16:20], "big")
    assert width == round(3.4 * 300)
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
    assert sizes and min(sizes) >= 6.0
    again = tmp_path / "again.svg"
    run(*line, again, "--width", "column")
    assert again.read_text() == svg
    for more, said in (
        (["c.jpg"], "--figure"), (["no.pdf", "--width", "0.1in"], "--width"), (["no.pdf", "--table", "word"], "--table"),
    ):  # fmt: skip
        code, _, error = run(*line, *more)
        assert code == 2 and said in error


def test_compare_prints_writes_and_draws_the_ranking(run, data, tmp_path):
    line = ["compare", data, "--methods", "random,max_prob", "--budgets", "2"]
    code, told, _ = run(*line, "--out", tmp_path, "--figure", tmp_path / "f.svg", "--width", "page")
    assert code == 0 and "group" in told and "share a letter" in told
    ranking = (tmp_path / "ranking.csv").read_text().splitlines()
    assert ranking[0].startswith("budget,rank,method,") and len(ranking) == 1 + 3 * 2
    assert "points over random" in (tmp_path / "f.svg").read_text()
    code, latex, _ = run(*line, "--table", "latex")
    assert code == 0 and latex.startswith("\\begin{table}") and "max\\_prob & \\textbf{" in latex


def test_a_rule_of_ones_own_beside_ten_of_ours_by_the_docs_alone(tmp_path):
    """The page's file and commands, as they stand, of fewer budgets."""
    page = (ROOT / "docs/howto/publish.md").read_text()
    (file,) = re.findall(r"^```python\n# gap.py\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "gap.py").write_text(file)
    lines = re.findall(r"^policyopt (--plugin .*)$", page, re.M)
    for line in lines:
        words = line.replace("cache/fashion_mnist", str(ROOT / "cache/fashion_mnist"))
        words, _, to = words.replace("--budgets 9", "--budgets 2").partition(" > ")
        if " curve " in words:  # eleven once
            words = re.sub(r"--methods \S+", "--methods gap,max_prob", words)
        done = subprocess.run(
            [sys.executable, "-m", "policyopt", *shlex.split(words)], cwd=tmp_path, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if to:
            (tmp_path / to).write_text(done.stdout)
    assert len(lines) == 2 and (tmp_path / "gap.tex").read_text().count(r" \\") == 1 + 11
    for name in ("gap_ranks.pdf", "gap_curve.pdf"):
        assert (tmp_path / name).read_bytes().startswith(b"%PDF")


def linked():
    """Pictures that pages link, from the root."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
    for page in [*pages, *ROOT.glob("benchmarks/**/*.md")]:
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+\.(?:png|svg))\)", page.read_text()):
            yield (page.parent / name).resolve().relative_to(ROOT).as_posix()


def test_every_picture_of_the_pages_is_made_by_one_command():
    tree = ast.parse((ROOT / "benchmarks/figures.py").read_text())
    made = set()
    for node in tree.body:
        target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
        if getattr(target, "id", "") in ("FIGURES", "BY_HAND"):
            made |= {key.value for key in node.value.keys}
    pictures = set(linked())
    assert len(pictures) > 8 and pictures == made
    assert all((ROOT / name).is_file() for name in pictures)
    assert "benchmarks/figures.py" in (ROOT / "Makefile").read_text()
