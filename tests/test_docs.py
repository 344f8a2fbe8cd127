"""What the README says runs: its Python, its commands, its names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from synthetic import outputs

import policyopt as po
from policyopt.methods import ROWS

SHIPPED = "cache/fashion_mnist"


def fences(text, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [body for name, body in found if name == language]


@pytest.fixture
def checkout(root, tmp_path, monkeypatch):
    """A folder that looks like a checkout, to run the README's lines in."""
    if not (root / SHIPPED / "manifest.json").is_file():
        pytest.skip("the shipped cache is not here")
    (tmp_path / "cache").mkdir()
    (tmp_path / SHIPPED).symlink_to(root / SHIPPED)
    (tmp_path / "docs").symlink_to(root / "docs")
    logits, labels = outputs(600, exits=3)
    np.savez(tmp_path / "logits.npz", logits=logits.swapaxes(0, 1), labels=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_python(root, checkout):
    """Every block as it stands, in order; the loops give the answers that the whole batch gives at once."""
    pytest.importorskip("torch").manual_seed(0)
    logits, labels = outputs(64, exits=3)
    real = po.open_cache(SHIPPED).splits["test"].array("outputs")
    names = {"loop": [(logits, labels)], "x": 7, "exits": lambda x: real[x]}
    names |= {"batch": np.arange(300), "head": lambda k, rows: real[rows, k]}
    checked = []
    for block in fences((root / "README.md").read_text(), "python"):
        exec(block, names)
        policy = names.get("policy")
        if "exits(x)" in block:
            whole = policy.decide(real[7:8])
            assert names["decision"].prediction == whole.prediction[0]
            checked.append("one")
        elif "batch[alive]" in block:
            whole = policy.decide(real[:300])
            np.testing.assert_array_equal(names["answers"], whole.prediction)
            assert len(np.unique(whole.exit)) == 5
            early = np.flatnonzero(whole.exit < 2)  # all of these have left before the last exit
            names["batch"] = early
            exec(block, names)
            np.testing.assert_array_equal(names["answers"], whole.prediction[early])
            assert names["k"] < 4
            checked.append("batch")
        elif "hidden[~leaving" in block:
            check_torch_loop(block, names)
            checked.append("torch")
    assert checked == ["one", "batch", "torch"]
    assert (checkout / "policy.json").is_file()
    assert (checkout / "my_cache" / "manifest.json").is_file()


def check_torch_loop(block, names):
    """Run the README's torch loop on a network whose samples leave at all exits, and on one where none stays."""
    import torch

    images, rows = names["images"], []
    stage_sizes, loop = [], block[block.index("state = ") :]
    # Heads of an untrained network are never sure: these are, of some samples more than of others.
    for k, head in enumerate(names["heads"]):
        head.weight.data *= 40 * (k + 1)
    for stage in names["stages"]:
        stage.register_forward_hook(lambda _, args, out: stage_sizes.append(len(args[0])))
    with torch.inference_mode():
        hidden = images
        for stage, head in zip(names["stages"], names["heads"], strict=True):
            hidden = stage(hidden)
            rows.append(head(hidden).numpy())
    whole = names["policy"].decide(np.stack(rows, axis=1))
    stage_sizes.clear()
    exec(loop, names)
    agree = names["answers"].numpy() == whole.prediction
    assert agree.mean() > 0.99  # rounding differs between batch sizes
    assert len(np.unique(whole.exit)) > 2
    left = [len(images) - int((whole.exit < k).sum()) for k in range(5)]
    np.testing.assert_allclose(stage_sizes, [n for n in left if n], atol=3)
    names["images"] = images[np.flatnonzero(whole.exit == 0)[:20]]
    stage_sizes.clear()
    exec(loop, names)
    assert stage_sizes == [20]


PARTS = 3  # of the README's commands, side by side: together they take minutes


@pytest.mark.parametrize("part", range(PARTS))
def test_readme_commands(root, checkout, part):
    """Every `policyopt` line of the README, with its placeholders filled in."""
    text = (root / "README.md").read_text()
    lines = [line.split("  ")[0] for block in fences(text, "") for line in block.splitlines()]
    commands = [line.partition("#")[0] for line in lines if line.startswith("policyopt ")]
    assert len(commands) >= 20
    fill = {"CACHE": SHIPPED, "DIR": "out", "outputs.npz": "outputs.npz", "SRC...": "logits.npz"}
    fill["30"] = "2"  # trials: the command is what is tried here
    fill["all"] = "max_prob,patience,optimal_stopping"  # all of them take minutes, and have tests
    data = np.random.default_rng(0).normal(size=(5, 7, 10)).astype(np.float32)
    np.savez(checkout / "outputs.npz", logits=data)
    for name in ("train", "test"):
        shutil.copy(checkout / "logits.npz", checkout / f"{name}.npz")
    po.fit(po.open_cache(SHIPPED), "40%", "max_prob").save("policy.json")  # what others begin with
    size = -(-len(commands) // PARTS)
    mine = commands[part * size : (part + 1) * size]
    if mine[0].startswith("policyopt verify"):
        mine = [commands[part * size - 1], *mine]
    for command in mine:
        words = [fill.get(word, word) for word in command.split()]
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
        if words[:2] == ["policyopt", "demo"]:
            assert (checkout / "demo" / "curve.png").stat().st_size > 20_000


def test_choosing_a_policy_is_up_to_date(root, monkeypatch):
    """The page is what its generator writes from the registry: no method is missing or misdescribed."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    import choosing

    page = (root / "docs" / "choosing_a_policy.md").read_text()
    assert page == choosing.page(), "run python benchmarks/choosing.py"
    for name in ROWS:
        assert f"| `{name}` |" in page, name


def test_readme_names_every_family(root):
    text = (root / "README.md").read_text()
    for row in ROWS.values():
        assert f"`{row.name}`" in text, row.name
