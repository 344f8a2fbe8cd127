"""PPO of Stable-Baselines3 learns when to leave, on cached exits; its policy runs as a policyopt artifact."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import policyopt as po
from policyopt._costs import overhead
from policyopt._methods.reinforcement import at_price
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.rl import ExitProblem, exit_problem
from policyopt.runtime._errors import PolicyOptError
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import Network

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Train, freeze, and hold the policy against max_prob at the same realised cost."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.stable_baselines3", description=__doc__
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "cache" / "fashion_mnist")
    parser.add_argument(
        "--price", type=float, default=0.05, help="the full model's cost, in right answers"
    )
    parser.add_argument("--steps", type=int, default=200_000, help="decisions to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to save the policy (JSON)")
    options = parser.parse_args()
    try:
        run(options)
    except PolicyOptError as error:
        sys.exit(str(error))


def run(options: argparse.Namespace) -> None:
    """Do what `main` was asked for."""
    tables = Tables(po.open_cache(options.cache))
    problem = exit_problem(tables, soft=1.0, seed=options.seed)
    began = time.perf_counter()
    model = learn(problem, options.price, options.steps, options.seed)
    print(
        f"PPO: {options.steps:,} decisions in {time.perf_counter() - began:.0f} s, price {options.price:g}"
    )
    policy = frozen(model, problem, options.price)
    test = tables.get("test")
    outcome = replay(policy, test)
    cost, accuracy = outcome.cost.mean(), outcome.quality.mean()
    low, high = tables.get("fit").mean_costs[[0, -1]]
    budget = float(np.clip(cost, low, high))
    print(f"{'method':28s} {'cost':>8s} {'accuracy':>9s}   exits")
    show("ppo (Stable-Baselines3)", outcome)
    for method in ("max_prob", "max_prob:answer=combined", "optimal_stopping"):
        fitted = po.fit(tables.data, budget, method, tables=tables)
        show(method, replay(fitted.policy, test))
    print(f"costs in {test.unit}, the full model's is {high:.4g}; {len(test):,} test rows")
    if options.out:
        policy.save(options.out)
        print(f"policy of {cost:.4g} {test.unit} and {100 * accuracy:.2f} % saved to {options.out}")


def learn(problem: ExitProblem, price: float, steps: int, seed: int) -> Any:
    """Train PPO on the environment."""
    from policyopt._optional import need

    sb3 = need("stable_baselines3", "sb3", "for this example")
    vec = need("stable_baselines3.common.vec_env", "sb3", "for this example")
    torch = need("torch", "sb3", "for this example")
    from policyopt.rl import ExitEnv

    torch.set_num_threads(1)  # a network this small only waits for more
    envs = vec.DummyVecEnv([lambda: ExitEnv(problem, price)] * 32)
    model = sb3.PPO(
        "MlpPolicy", envs, seed=seed, device="cpu", n_steps=128, batch_size=1024, n_epochs=6,
        gamma=1.0, gae_lambda=1.0, learning_rate=lambda left: 1e-3 * left, ent_coef=0.002,
        policy_kwargs={"net_arch": [32]},
    )  # fmt: skip
    return model.learn(total_timesteps=steps)


def frozen(model: Any, problem: ExitProblem, price: float) -> Policy:
    """Return PPO's likelier decision as a policy that needs numpy only.

    The score of leaving is the difference of the actor's two log-odds; the exit and the price, inputs
    of the actor, become part of its first biases.
    """
    linear = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    layers = []
    for layer in linear:
        if hasattr(layer, "weight"):
            weight, bias = (p.detach().double().numpy()[None] for p in (layer.weight, layer.bias))
            layers.append((weight, bias))
    weight, bias = layers[-1]  # log-odds of going on, and of leaving
    layers[-1] = (weight[:, 1:] - weight[:, :1], bias[:, 1:] - bias[:, :1])
    layers = at_price(layers, problem.columns, problem.exits, price)
    weights, biases = zip(*layers, strict=True)
    rule = Network(
        problem.features, problem.center, problem.scale, "tanh", list(weights), list(biases)
    )
    table = problem.table
    own = overhead(problem.answer, (rule,), table.exits, table.classes, table.rate)
    return Policy(
        rule, np.zeros(table.exits - 1), table.mean_costs + own, table.unit, table.kind,
        table.classes, None, {"method": "ppo, Stable-Baselines3"}, problem.answer, own,
    )  # fmt: skip


def show(name: str, outcome: Any) -> None:
    """Print one line of the table."""
    share = " ".join(f"{100 * s:3.0f}%" for s in outcome.exit_share)
    print(f"{name:28s} {outcome.cost.mean():8.4g} {100 * outcome.quality.mean():8.2f}%   {share}")


if __name__ == "__main__":
    main()
