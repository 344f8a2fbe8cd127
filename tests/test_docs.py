"""What README and pages say runs: their Python, their commands, their names; and the pages are short."""

import ast
import re
import shlex

import numpy as np
import pytest
from conftest import ROOT
from synthetic import outputs

import policyopt as po
import policyopt.rl
import policyopt.runtime
import policyopt.serving
from policyopt._methods.registry import ROWS

SHIPPED = "cache/fashion_mnist"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Blocks of a page, with a remark before those that are not run.
BLOCK = re.compile(r"(?:^<!-- not run: .+ -->\n\n?)?^```(\w*)\n(.*?)^```$", re.M | re.S)
#: Tested by themselves, in tests/test_own_policies.py.
ELSEWHERE = {"own_policies.md"}
#: Less of the same, where all of it takes minutes: the commands have tests of their own.
LESS = {"--trials": "2", "--budgets": "2", "--seeds": "2", "--rounds": "200"}
ALL = "max_prob,patience,optimal_stopping"
#: Pages whose fits choose the method, which takes longest; on others commands fit one.
CHOOSE = {"fit.md", "README.md"}
#: What a page needs that is not installed with numpy alone.
NEEDS = {"numpy.md": "torch", "torch.md": "transformers", "rl.md": "gymnasium", "onnx.md": "onnxruntime"}  # fmt: skip


def code(page):
    found = [m for m in BLOCK.finditer(page.read_text()) if not m[0].startswith("<!--")]
    return [(m[1], m[2]) for m in found if m[1] in ("", "python")]


def commands(text):
    lines = [line.partition("#")[0].split("  ")[0] for line in text.splitlines()]
    return [line for line in lines if line.startswith("policyopt ") and "COMMAND" not in line]


RUN = [p for p in PAGES if p.name not in ELSEWHERE
       and any(k == "python" or commands(t) for k, t in code(p))]  # fmt: skip


@pytest.fixture
def checkout(root, tmp_path, monkeypatch):
    """A folder that looks like a checkout, with the files that pages begin with."""
    if not (root / SHIPPED / "manifest.json").is_file():
        pytest.skip("the shipped cache is not here")
    for folder in ("cache", "models"):
        (tmp_path / folder).mkdir()
    for folder in (SHIPPED, "cache/training_strategies", "docs"):
        (tmp_path / folder).symlink_to(root / folder)
    monkeypatch.chdir(tmp_path)
    logits, labels = outputs(600, exits=3)
    for name, part in (("logits", slice(None)), ("train", slice(300)), ("test", slice(300, None))):
        np.savez(f"{name}.npz", logits=logits.swapaxes(0, 1)[:, part], labels=labels[part])
    np.savez("outputs.npz", logits=np.random.default_rng(0).normal(size=(5, 7, 10)).astype("f4"))
    np.save("models/labels.npy", labels)
    for k, name in enumerate(("small", "medium", "large")):
        np.save(f"models/{name}.npy", logits[:, k])
    rows = ["sample,exit,confidence,prediction,correct,cost_usd"]
    sure, said = np.abs(logits).max(axis=2) / np.abs(logits).max(), logits.argmax(axis=2)
    for n, k in np.ndindex(400, 3):
        right = int(said[n, k] == labels[n])
        rows.append(f"{n},{k},{sure[n, k]:.4f},{said[n, k]},{right},{0.001 * 4**k}")
    (tmp_path / "calls.csv").write_text("\n".join(rows))
    cost = po.Cost("c", "ms", [1, 2, 4])
    with po.CacheWriter("experts_cache", costs=[cost], contexts=["clean", "blur"]) as writer:
        writer.append("pool", logits, labels, context=np.arange(600) % 2)
    po.fit(po.open_cache(SHIPPED), "40%", "max_prob").save("policy.json")
    return tmp_path


@pytest.fixture
def world():
    real = po.open_cache(SHIPPED).splits["test"].array("outputs")
    names = {"x": 7, "exits": lambda x: real[x], "batch": np.arange(300)}
    names |= {"head": lambda k, rows: real[rows, k], "request_number": 7}
    return names | {"run_stage": lambda k: real[7, k], "real": real}


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page(page, checkout, world, run):
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    checked = []
    for language, text in code(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), world)
            for mark in (mark for mark in LOOPS if mark in text):
                LOOPS[mark](text, world)
                checked.append(mark)
        for line in commands(text) if language == "" else ():
            words = filled(shlex.split(line)[1:])
            if (
                words[0] in ("fit", "calibration")
                and "--method" not in words
                and page.name not in CHOOSE
            ):
                words += ["--method", "max_prob"]
            status, _, told = run(*words)
            assert status == 0 and "Traceback" not in told, (line, told)
    assert checked == list(LOOPS)[: {"README.md": 1, "numpy.md": 3}.get(page.name, 0)]


def filled(words):
    place = f"out_{words[0].replace('verify', 'export')}"
    fill = {"CACHE": SHIPPED, "DIR": place, "all": ALL}
    pairs = zip(["", *words], words, strict=False)
    words = [
        LESS.get(before) or (word if before == "--streams" else fill.get(word, word))
        for before, word in pairs
    ]
    return [*words, "--method", "none"] if words[0] == "plan" else words


def check_single(block, names):
    """One sample decides as the batch that it is alone in."""
    whole = names["policy"].decide(names["real"][7:8])
    assert names["decision"].prediction == whole.prediction[0]


def check_batch(block, names):
    """A shrinking batch gives the answers that the whole batch gives at once, and ends when none is left."""
    whole = names["policy"].decide(names["real"][:300])
    np.testing.assert_array_equal(names["answers"], whole.prediction)
    assert len(np.unique(whole.exit)) >= 4  # what buys nothing is not spent
    early = np.flatnonzero(whole.exit < 2)  # all of these have left before the last exit
    names["batch"] = early
    exec(block, names)
    np.testing.assert_array_equal(names["answers"], whole.prediction[early])
    assert names["state"].position <= 2


def check_torch(block, names):
    """The torch loop on a network whose samples leave at all exits, and on samples of which none stays."""
    import torch

    torch.manual_seed(0)
    exec(block, names)
    images, rows = names["images"], []
    sizes, loop = [], block[block.index("state = ") :]
    # Heads of an untrained network are never sure: these are, of some samples more than of others.
    for k, head in enumerate(names["heads"]):
        head.weight.data *= 40 * (k + 1)
    with torch.inference_mode():
        hidden = images
        for stage, head in zip(names["stages"], names["heads"], strict=True):
            hidden = stage(hidden)
            rows.append(head(hidden).numpy())
            stage.register_forward_hook(lambda _, args, out: sizes.append(len(args[0])))
    whole = names["policy"].decide(np.stack(rows, axis=1))
    exec(loop, names)
    agree = names["answers"].numpy() == whole.prediction
    assert agree.mean() > 0.99  # rounding differs between batch sizes
    assert len(np.unique(whole.exit)) > 2
    left = [len(images) - int((whole.exit < k).sum()) for k in range(5)]
    np.testing.assert_allclose(sizes, [n for n in left if n], atol=3)
    names["images"] = images[np.flatnonzero(whole.exit == 0)[:20]]
    sizes.clear()
    exec(loop, names)
    assert sizes == [20]


#: The serving loops, by what is in them.
LOOPS = {"exits(x)": check_single, "batch[alive]": check_batch, "hidden[~leaving": check_torch}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_short_and_use_public_names(page):
    assert len(page.read_text().splitlines()) <= (150 if page.name == "README.md" else 300)
    modules = (po, policyopt.runtime, policyopt.serving, policyopt.rl)
    homes = {module.__name__: {*module.__all__} for module in modules}
    trees = [ast.parse(block) for language, block in code(page) if language == "python"]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("policyopt.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("policyopt"):
            assert {alias.name for alias in node.names} <= homes[node.module]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "po":
            assert node.attr in homes["policyopt"]


def test_every_page_is_in_the_navigation(root):
    nav = (root / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"(\S+\.md)$", nav, re.M))
    written = {page.relative_to(root / "docs").as_posix() for page in PAGES[2:]}
    copied = {f"repository/{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG")}
    assert written <= named and named - written == {"index.md", "reference/cli.md", *copied}


def test_choosing_a_policy_is_up_to_date(root, monkeypatch):
    """The page is what its generator writes from the registry: no method is missing or misdescribed."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    import choosing

    page = (root / "docs" / "choosing_a_policy.md").read_text()
    assert page == choosing.page(), "run python benchmarks/choosing.py"
    how = (root / "docs" / "howto" / "fit.md").read_text()
    assert [n for n in ROWS if f"| `{n}` |" not in page or f"`{n}`" not in how] == []
