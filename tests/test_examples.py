"""The examples run: small, on stand-in data of the real format."""

import gzip
import io
import json
import runpy
import struct
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

import policyopt as po
from policyopt._table import Tables
from policyopt.runtime import load_any


@pytest.fixture
def example(root, monkeypatch):
    """Runs an example: first as users start it, then in this process, which has read torch already."""
    monkeypatch.syspath_prepend(root)
    begun = []

    def run(name, *words):
        words = [*map(str, words)]
        code, said, err = (here if begun else alone)(f"examples.{name}", words, root)
        begun.append(name)
        assert code in (0, 2) and "Traceback" not in err, err
        return code, said, err

    return run


def alone(module, words, root):
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def here(module, words, root):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", [module, *words])
        patch.chdir(root)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def shipped(root):
    return shipped_cache(root, "fashion_mnist")


def shipped_cache(root, name):
    if not (root / "cache" / name / "manifest.json").is_file():
        pytest.skip("the shipped cache is not here")
    return root / "cache" / name


@pytest.fixture
def stand_in(tmp_path):
    """Files of Fashion-MNIST's names, shapes and format; each class has a pattern of its own, each image a few pixels."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 28, 28), dtype=np.uint8)
    for part, rows in (("train", 60_000), ("t10k", 10_000)):
        labels = (np.arange(rows) % 10).astype(np.uint8)
        images, own = patterns[labels], rng.integers(0, 28, (2, rows, 16))
        images[np.arange(rows)[:, None], *own] = rng.integers(0, 256, own.shape[1:])
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape)
            with gzip.open(tmp_path / f"{part}-{name}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header + array.tobytes())
    return tmp_path


def test_fashion_mnist_from_training_to_policy(example, stand_in):
    out = stand_in / "cache"
    code, _, err = example("fashion_mnist", "--quick", "--data", stand_in, "--out", out)
    assert code == 0, err
    data = po.open_cache(out)
    wanted = {"fit", "calibrate", "test", "blur_mild", "noise_ruinous"}
    assert data.exits == 5 and wanted <= set(data.split_names)
    compute = data.cost("compute").values
    # By hand: stem and first stage are 3 x 3 convolutions on 28 x 28 and 14 x 14, head 16 to 10.
    assert compute[0] == pytest.approx((9 * 1 * 16 * 28**2 + 9 * 16 * 16 * 14**2 + 16 * 10) / 1e6)
    assert (np.diff(data.cost("latency").values) > 0).all()
    outcome = po.evaluate(po.fit(data, "50%", "max_prob").policy, data)
    assert compute[0] <= outcome.cost.mean() <= compute[-1]
    assert "| `test` | 500 |" in (out / "README.md").read_text()


def test_missing_data_are_explained(example, tmp_path):
    pytest.importorskip("torch")
    line = ("fashion_mnist", "--data", tmp_path, "--out", tmp_path / "c")
    code, _, err = example(*line)
    assert code == 2 and "apt-get install dataset-fashion-mnist" in err
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    code, _, err = example(*line)
    assert code == 2 and "train-images" in err


def test_wordnet_from_training_to_policy(example, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "data.noun"
    lines = ["  1 This software is licensed to you.  "]
    for row in range(16_000):
        category = (5, 6, 18, 3)[row % 4 if row < 40 else row % 3]
        lines.append(
            f'{row:08d} {category:02d} n 01 it 0 000 | word{category} {row}; "an example"  '
        )
    file.write_text("\n".join(lines))
    out = tmp_path / "cache"
    code, _, err = example("wordnet", "--quick", "--data", file, "--out", out)
    assert code == 0, err
    data = po.open_cache(out)
    assert data.exits == 4 and data.classes == 3  # ten definitions are no class
    # By hand: 17 places, 64 wide; projections and the feed-forward layer, attention; three wide heads.
    layer, wide = (17 * 12 * 64**2 + 2 * 17**2 * 64) / 1e6, (64 * 256 + 256 * 3) / 1e6
    costs = [layer + wide, 2 * (layer + wide), 3 * (layer + wide)]
    costs.append(costs[-1] + layer + 64 * 3 / 1e6)
    assert data.cost().values == pytest.approx(costs)
    outcome = po.evaluate(po.fit(data, "50%", "max_prob").policy, data)
    assert costs[0] <= outcome.cost.mean() <= costs[-1]
    assert "| `test` | 500 |" in (out / "README.md").read_text()
    file.write_text("nothing of the kind")
    code, _, err = example("wordnet", "--data", file, "--out", out)
    assert code == 2 and "apt-get install wordnet-base" in err


def test_from_training_to_a_served_policy(example, stand_in):
    out = stand_in / "out"
    command = ("serve_torch", "--quick", "--data", stand_in, "--out", out)
    code, said, err = example(*command)
    text = (out / "results.md").read_text()
    assert code == 0, err
    assert text in said and "other exits than the replay of the cache: 0" in text
    for batch in (1, 16, 256):
        (line,) = (row for row in text.splitlines() if row.startswith(f"| {batch} | wall |"))
        full, served, ideal = (float(cell.split()[0]) for cell in line.split("|")[3:6])
        assert full > 0 and served > 0 and ideal > 0
    data, policy = po.open_cache(out / "cache"), po.load_policy(out / "policy.json")
    assert po.evaluate(policy, data).cost.mean() < 0.5 * data.cost().values[-1]
    assert (out / "serve_torch.png").stat().st_size > 10_000
    for budget, wanted in (("1", 0), ("900", 2)):
        code, _, err = example(*command, "--weights", out / "weights.pt", "--budget", budget)
        assert code == wanted, err
    assert "'budget' must be" in err


@pytest.mark.parametrize(
    ("name", "test_rows", "most"), [("fashion_mnist", 10_000, 10e6), ("wordnet", 7_500, 3e6)]
)
def test_the_shipped_cache_is_what_its_card_says(root, name, test_rows, most):
    shipped = shipped_cache(root, name)
    tables = Tables(po.open_cache(shipped))
    card = (shipped / "README.md").read_text()
    assert len(tables.get("fit")) == 5000 and len(tables.get("test")) == test_rows
    for split in tables.data.split_names:
        table = tables.get(split)
        cells = " | ".join(f"{100 * a:.2f}" for a in table.quality.mean(axis=0))
        assert f"| `{split}` | {len(table):,} | {cells} |" in card
    assert sum(file.stat().st_size for file in shipped.iterdir()) < most


def test_hidden_states_tell_more_than_heads_that_were_never_trained(example, tmp_path):
    pytest.importorskip("torch")
    words = ("--seeds", 1, "--methods", "max_prob,berxit:inputs=both,e2cm:vectors=features")
    code, said, err = example("hidden_states", *words, "--out", tmp_path / "cache")
    assert code == 0, err
    lines = [line.split() for line in said.splitlines()[-3:]]
    (_, plain, *_), (_, both, *_), (_, means, *_, cost) = lines
    assert float(both) > float(plain) + 1 and float(means) > float(plain) + 3 and float(cost) < 4.5
    tables = Tables(po.open_cache(tmp_path / "cache"))
    assert tables.get("fit").has_features and tables.get("fit").feature(0).shape == (600, 64)


@pytest.mark.usefixtures("shipped")
def test_drift_is_noticed_and_the_budget_kept_again(example, tmp_path):
    code, out, err = example("drift_refit", "--rounds", 6000, "--out", tmp_path / "a.png")
    assert code == 0, err
    alarm, refit = (line for line in out.splitlines() if line.startswith("request"))
    assert 6_000 < int(alarm.split()[1].strip(":").replace(",", "")) < 6_300
    assert "drift" in alarm and refit.endswith("fitted anew, without labels")
    cost, alone = map(float, out.splitlines()[-1].split()[3:5])
    budget = float(out.partition("budget 40%: ")[2].split()[0])
    assert abs(cost / budget - 1) < 0.12  # of the few requests that are left
    assert alone > 1.7 * budget
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_stable_baselines3_learns_a_policy(example, shipped, tmp_path):
    """In one short run: an artifact that numpy runs, and the table that the README shows."""
    pytest.importorskip("stable_baselines3")
    out = tmp_path / "policy.json"
    code, said, err = example("stable_baselines3", "--steps", 8192, "--out", out)
    assert code == 0, err
    assert "ppo (Stable-Baselines3)" in said and "max_prob" in said
    outcome = po.evaluate(po.load_policy(out), po.open_cache(shipped))
    assert f"{outcome.cost.mean():8.4g}" in said


def test_the_frozen_policy_decides_as_ppo_does():
    pytest.importorskip("stable_baselines3")
    from synthetic import cache

    from examples.stable_baselines3.train import frozen, learn
    from policyopt._methods.reinforcement import Episodes
    from policyopt.rl import exit_problem

    tables = Tables(cache(600))
    problem = exit_problem(tables)
    model = learn(problem, 0.2, 4096, 0)
    test = exit_problem(tables, "test", like=problem)
    key, rows = tables.data.rows("test")
    outputs = tables.data.splits[key].array("outputs")[rows]
    exits = frozen(model, problem, 0.2).decide(outputs).exit
    played = Episodes(test.samples)
    played.start(np.arange(len(test)), np.full(len(test), 0.2))
    taken = np.full(len(test), 3)
    for k in range(3):
        actions, _ = model.predict(played.observe(), deterministic=True)
        taken[(taken == 3) & (actions == 1)] = k
        played.exit[:] = k + 1
    np.testing.assert_array_equal(taken, exits)


def test_expert_branches_from_training_to_comparison(example, stand_in):
    """Two caches on the same rows, routed by what the detector says; a policy, a table, a picture."""
    out = stand_in / "out"
    code, said, err = example("expert_branches", "--quick", "--data", stand_in, "--out", out)
    assert code == 0, err
    plain, experts = po.open_cache(out / "plain"), po.open_cache(out / "experts")
    assert plain.contexts == experts.contexts == ("clean", "blur", "noise")
    assert {"fit", "calibrate", "test", "clean", "blur", "noise"} == set(plain.split_names)
    for name in plain.split_names:
        one, other = plain.splits[name], experts.splits[name]
        np.testing.assert_array_equal(one.array("labels"), other.array("labels"))
        context = other.array("context")
        np.testing.assert_array_equal(one.array("context"), context)
        same = (one.array("outputs") == other.array("outputs")).all(axis=(1, 2))
        np.testing.assert_array_equal(same, context == 0)  # the clean expert is the plain branches
    # By hand: the transform, the logarithms, two convolutions (13 x 7 and 6 x 3 places), the layer.
    light = 1.25 * 784 * np.log2(784) + 20 * 28 * 15
    light += 9 * 8 * 13 * 7 + 8 * 8 * 6 * 3 + 8 * 6 * 3 * 3
    apart = np.subtract(experts.cost().values, plain.cost().values)
    assert apart == pytest.approx([light / 1e6] * 5)
    policy = load_any(out / "policy.json")
    outcome = po.evaluate(policy, experts)
    assert outcome.cost.mean() < 0.5 * experts.cost().values[-1]
    table = (out / "results.md").read_text()
    assert table in said and "| clean, blur, noise in turn |" in table
    assert (out / "expert_branches.png").stat().st_size > 20_000


def test_a_cascade_of_paid_models_on_the_stand_in(example, tmp_path):
    words = ("--stand-in", "--out", tmp_path / "p.json", "--methods", "max_prob,frugalgpt")
    code, said, err = example("llm_cascade", *words)
    assert code == 0, err
    assert "a generated stand-in" in said and "frugalgpt at 30%" in said
    policy = po.load_policy(tmp_path / "p.json")
    assert policy.unit == "USD" and policy.model_exits == 5


def test_the_loop_pays_for_the_calls_it_makes(root, monkeypatch):
    monkeypatch.syspath_prepend(root)
    from examples.llm_cascade.records import stand_in
    from examples.llm_cascade.serve import Models, ask

    data = stand_in(400)
    policy = po.fit(data, "35%", method="subset").policy
    replayed, models = po.evaluate(policy, data), Models(data, "test")
    answers = [ask(policy, models, q) for q in range(len(replayed.exit))]
    np.testing.assert_array_equal(answers, replayed.prediction)
    assert models.spent == pytest.approx(replayed.cost.sum())
    asked = np.searchsorted(policy.active_exits, replayed.exit) + 1
    assert models.calls.sum() == asked.sum() < 0.6 * models.calls.size * len(answers)
    assert not models.calls[[k for k in range(5) if k not in policy.active_exits]].any()


def test_model_zoo_from_training_to_the_page(example, stand_in, root, run):
    """Training, the folder as commands take it, the small cache, and the table of the page, on what ships too."""
    zoo, page = stand_in / "zoo", stand_in / "page.md"
    names = ("linear_half", "mlp_64", "conv_tiny")
    words = ("--quick", "--data", stand_in, "--out", zoo)
    code, said, err = example("model_zoo.train", *words, "--models", ",".join(names))
    assert code == 0 and [line.split()[0] for line in said.splitlines()] == [*names], err
    assert example("model_zoo.train", *words, "--models", "mlp_64")[1] == ""  # it is there
    costs = json.loads((zoo / "costs.json").read_text())
    # By hand: 14 x 14 pixels to 10; a hidden layer; two convolutions of stride two and a head of 3 x 3 places.
    tiny = 9 * 8 * 14**2 + 9 * 8 * 16 * 7**2 + 9 * 16 * 10
    wanted = [1960, 784 * 64 + 640, tiny]
    assert [costs[name] for name in names] == pytest.approx([c / 1e6 for c in wanted], abs=1e-4)
    files = [zoo / f"{name}.npy" for name in names]
    paid = ",".join(str(costs[name]) for name in names)
    line = ("--labels", zoo / "labels.npy", "--costs", paid, "--unit", "MMACs", "--cost-kind")
    assert run("import", "--exits", *files, *line, "standalone", "--out", stand_in / "c")[0] == 0
    assert po.open_cache(stand_in / "c").names == names
    assert example("model_zoo", "--folder", zoo, "--ship", stand_in / "small")[0] == 0
    assert po.open_cache(stand_in / "small").cost().values == pytest.approx(
        np.cumsum(wanted) / 1e6, abs=1e-4
    )
    shipped = shipped_cache(root, "model_zoo")
    assert sum(file.stat().st_size for file in shipped.iterdir()) < 1e6
    page.write_text("<!-- begin results: generated -->\n<!-- end results -->\n")
    words = (
        "--divisions",
        1,
        "--budgets",
        "0.1,0.8",
        "--out",
        stand_in / "z.png",
        "--readme",
        page,
    )
    code, said, err = example("model_zoo", shipped, *words, "--methods", "always,routing")
    assert code == 0 and said in page.read_text(), err
    always, routing = ([float(c) for c in line.split("|")[2:4]] for line in said.splitlines()[2:4])
    assert min(np.subtract(routing, always)) > 0 and (stand_in / "z.png").stat().st_size > 20_000


def test_training_strategies_from_training_to_the_page(example, stand_in):
    out, small, page = stand_in / "out", stand_in / "small", stand_in / "page.md"
    words = ("--quick", "--backbones", "plain", "--seeds", 1, "--data", stand_in, "--out", out)
    code, said, err = example("training_strategies", *words)
    assert code == 0, err
    assert said.count("plain/") == 9
    joint, apart = (po.open_cache(out / "plain" / name / "0") for name in ("joint", "separate"))
    compute = joint.cost("compute").values
    # By hand: the stem, then two 3 x 3 convolutions on 7 x 7; the head's on 4 x 4, and its two layers.
    stem, head = 9 * 8 * 14**2, 9 * 8 * 16 * 4**2 + 64 * 32 + 32 * 10
    assert compute[0] == pytest.approx((stem + 2 * 9 * 8 * 8 * 7**2 + head) / 1e6)
    assert joint.cost("shared").values == apart.cost("shared").values == compute
    assert apart.cost().cascade and apart.cost().values[-1] > 1.5 * compute[-1]
    told = joint.metadata["per_exit"]
    assert len(told) == 10 and all(len(numbers) == 4 for numbers in told.values())
    assert told["multiply_adds"] == pytest.approx(compute, rel=1e-4)
    assert {"fit", "test", "train"} <= set(joint.split_names)
    assert example("training_strategies", *words)[1] == ""  # all is there: nothing is done twice

    assert example("training_strategies", "--out", out, "--ship", small)[0] == 0
    pool = po.open_cache(small / "plain/joint/0").splits["pool"]
    assert (pool.array("group") == np.arange(len(pool))).all()
    marks = (f"<!-- begin {n}: generated -->\n<!-- end {n} -->\n" for n in ("results", "slowdown"))
    page.write_text("".join(marks))
    assert example("training_strategies.page", small, "--readme", page)[0] == 0
    assert page.read_text().count("\n| plain |") == 9 * 3 + 3

    words = (out, "--data", stand_in, "--backbone", "plain", "--strategies", "joint", "--eps", 0.1)
    code, said, err = example("training_strategies.slowdown", *words, "--readme", page)
    assert code == 0 and said in page.read_text(), err
    clean, noise, attacked = map(float, said.splitlines()[-1].split("|")[3].split(", "))
    assert attacked > max(clean, noise)


@pytest.fixture
def task():
    torch = pytest.importorskip("torch")
    from examples.training_strategies.optimise import Recipe, Rows
    from examples.training_strategies.strategies import STRATEGIES, Task

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows = Rows(torch.rand(256, 1, 28, 28, generator=generator), torch.arange(256) % 10)
    given = Task("residual", 0, rows, rows, Recipe(epochs=1), lambda s: STRATEGIES[s](given))
    return given


def test_layers_that_a_strategy_freezes_stay_as_they_are(task):
    from examples.training_strategies.model import sub_model
    from examples.training_strategies.strategies import STRATEGIES

    def same(one, other):
        mine, theirs = one.state_dict(), other.state_dict()
        pairs = zip(mine.values(), theirs.values(), strict=True)
        return all((one == other).all() for one, other in pairs)

    alone, joint = (STRATEGIES[name](task)[0] for name in ("backbone", "joint"))
    two, phases = STRATEGIES["two_stage"](task)
    assert same(two.blocks, alone.blocks[0]) and same(two.heads[3], alone.heads[0])
    assert not same(two.heads[0], task.fresh().heads[0])
    assert [phase.exits for phase in phases] == [[3], [0], [1], [2]]
    for name in ("joint_branch", "joint_two_stage"):
        assert same(STRATEGIES[name](task)[0].blocks, joint.blocks)
    branch, first = STRATEGIES["branch_wise"](task)[0], task.fresh()
    task.fit(sub_model(first, 0), [0])
    assert same(branch.blocks[0], first.blocks[0])  # batch norm's statistics, too
    assert not same(branch.blocks[1], first.blocks[1])
    taught = STRATEGIES["distillation"](task)[0]
    assert not same(taught.blocks, alone.blocks[0])  # Algorithm 5, line 18
    models = STRATEGIES["separate"](task)[0].models
    assert not same(models[0][0], models[1][0]) and same(models[3][:4], alone.blocks[0])


def test_losses_of_joint_training_and_distillation_are_as_written():
    torch = pytest.importorskip("torch")
    from examples.training_strategies.optimise import Rows
    from examples.training_strategies.strategies import distillation_loss, joint_loss

    rng = np.random.default_rng(0)
    logits, teacher, labels = rng.normal(size=(4, 8, 10)), rng.normal(size=(8, 10)), np.arange(8)

    def soft(values, temperature=1.0):
        e = np.exp(values / temperature)
        return e / e.sum(axis=-1, keepdims=True)

    hard = -np.log(soft(logits)[:, np.arange(8), labels]).mean(axis=1)
    of, taught = soft(teacher, 3), soft(logits, 3)
    apart = (of * np.log(of / taught)).sum(axis=2).mean(axis=1)
    batch = Rows(torch.zeros(8), torch.from_numpy(labels), torch.from_numpy(teacher))
    exits = list(torch.from_numpy(logits))
    assert distillation_loss(exits, batch).item() == pytest.approx(
        (0.1 * hard + 0.9 * 9 * apart).sum()
    )
    weights = [0.3, 0.3 + 0.7 / 3, 0.3 + 1.4 / 3, 1.0]
    wanted = pytest.approx(weights @ hard, rel=1e-6)
    assert joint_loss([e.float() for e in exits], batch).item() == wanted


def test_an_attack_makes_early_exits_unsure_within_its_distance():
    torch = pytest.importorskip("torch")
    from examples.training_strategies.model import build
    from examples.training_strategies.slowdown import attack, efficacy, noisy, unsure

    model = build("residual", 0).eval()
    for head in model.heads:  # sure of itself, as a trained one
        torch.nn.init.normal_(list(head)[-1].weight)
    images = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    changed, moved = attack(model, images, 0.05), noisy(images, 0.05)
    for each in (changed, moved):
        assert (
            0.04 < (each - images).abs().max() <= 0.05 + 1e-6 and 0 <= each.min() <= each.max() <= 1
        )
    with torch.no_grad():
        doubt = [unsure(model(each)).item() for each in (images, moved, changed)]
    assert doubt[2] < min(doubt[:2]) - 0.01
    assert efficacy(np.array([0, 0, 1, 1]), np.array([1.0, 4.0])) == pytest.approx(
        0.25 / 4 + 0.75 * 0.75
    )


def test_small_caches_of_training_strategies_are_of_the_same_rows(root):
    if not (place := root / "cache" / "training_strategies").is_dir():
        pytest.skip("the shipped caches are not here")
    files = sorted(place.glob("*/*/*/manifest.json"))
    assert f"Training strategies: {len(files)} small caches" in (place / "README.md").read_text()
    assert len(files) >= 27
    labels = None
    for file in files:
        data = po.open_cache(file.parent)
        pool = data.splits["pool"]
        assert (pool.array("group") == np.arange(len(pool))).all()
        labels = pool.array("labels") if labels is None else labels
        assert (pool.array("labels") == labels).all()
        training = data.metadata["training"]
        named = tuple(str(training[name]) for name in ("backbone", "strategy", "seed"))
        assert named == file.parts[-4:-1]
    assert sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) < 10e6
