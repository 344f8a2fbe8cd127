"""One trial after another: what to try next, how it is judged, how it ends in the storage.

Optuna's ``optimize`` counts trials per call and draws from one random stream. Here trials are
counted over all calls and processes, and each draws from a stream of its own number: a study that
was interrupted and resumed has the same trials as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from policyopt.methods.registry import make_method
from policyopt.runtime.errors import PolicyOptError
from policyopt.table import Table
from policyopt.tuning.objective import Objective, score_folds
from policyopt.tuning.result import describe_trial
from policyopt.tuning.search import Search, key_of, suggest
from policyopt.tuning.storage import load_optuna

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def counted(study: Any) -> list[Any]:
    """Return the trials that ended of themselves: not those running, waiting or interrupted."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.name in ("COMPLETE", "PRUNED")
        or (t.state.name == "FAIL" and "error" in t.user_attrs)  # set while the trial still runs
    ]


def records(study: Any) -> list[dict[str, Any]]:
    """Return the trials as records (see `Tuned.history`), numbered anew in the order they began."""
    return [
        describe_trial(
            number, _STATES[t.state.name], _folds(t), t.params, t.user_attrs
        )
        for number, t in enumerate(counted(study))
    ]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What the trials of a study share."""

    study: Any
    search: Search
    table: Table
    objective: Objective
    folds: int
    seed: int

    @cached_property
    def combinations(self) -> list[dict[str, Any]] | None:
        """All there is to try; None where that has no end."""
        return self.search.combinations(self.seed)

    def exhausted(self) -> bool:
        """Return whether every combination was tried, and the default too."""
        return self.combinations is not None and self.default_done() and not self._untried()

    def default_done(self) -> bool:
        """Return whether the default's trial has ended."""
        return any(t.user_attrs.get("default") for t in counted(self.study))

    def standing(self) -> str:
        """Return the best value so far, for a progress bar."""
        values = [t.value for t in counted(self.study) if t.state.name == "COMPLETE"]
        return f"best {max(values):.4f}" if values else "default"

    def trial(self, wanted: int) -> None:
        """Run the next trial; `wanted` in all decides whether a finite space is searched in full."""
        trial = self.study.ask()
        optuna = load_optuna()
        state = optuna.trial.TrialState
        try:
            value = self._judge(trial, self._choose(trial, wanted))
        except optuna.TrialPruned:
            self.study.tell(trial, state=state.PRUNED)
        except PolicyOptError as error:  # settings that do not go together, a budget out of reach
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=state.FAIL)
        except BaseException:  # interrupted: whoever resumes the study tries these settings again
            marks = {"again": True, "default": bool(trial.user_attrs.get("default"))}
            self.study.enqueue_trial(trial.params, user_attrs=marks)
            self.study.tell(trial, state=state.FAIL)
            raise
        else:
            self.study.tell(trial, value)

    def _choose(self, trial: Any, wanted: int) -> dict[str, Any]:
        """Return the settings of a trial: the default, one left to try, or what the sampler says."""
        optuna = load_optuna()
        running = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state.name == "RUNNING" and t.number != trial.number
        ]
        place = self._place(trial.number)
        # What only others are running comes last: a process that was killed never ends its trial.
        left = self._untried(wanted, running) or self._untried(wanted)
        chosen: dict[str, Any] = {}
        if not trial.user_attrs.get("again"):
            begun = any(t.user_attrs.get("default") for t in running)
            late = len(counted(self.study)) >= wanted  # whoever ran the default is gone: run it now
            if not self.default_done() and (late or not begun):
                trial.set_user_attr("default", True)
                chosen = self.search.start()
            elif left:
                chosen = left[place % len(left)]
        # Set after `ask`, when the number is known; so the settings are sampled independently.
        sampler = optuna.samplers.TPESampler(
            multivariate=False,
            constant_liar=True,
            seed=int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0]),
        )
        self.study.sampler = optuna.samplers.PartialFixedSampler(chosen, sampler)
        # Where the default lies outside what may be tried, its trial goes without that setting.
        names = self.search.start() if trial.user_attrs.get("default") else self.search.domains
        return suggest(trial, {k: d for k, d in self.search.domains.items() if k in names})

    def _judge(self, trial: Any, params: Mapping[str, Any]) -> float:
        """Return the mean of the objective over folds, or raise what ended the trial."""
        pruned = load_optuna().TrialPruned
        key = key_of(params)
        same = next((t for t in counted(self.study) if key_of(t.params) == key and params), None)
        if same is not None:  # tried before: the same folds would say the same
            return self._repeat(trial, same)
        method = make_method(self.search.method, {**self.search.fixed, **params})
        scores = []
        for score in score_folds(method, self.table, self.objective, self.folds, self.seed):
            trial.report(score.value, len(scores))
            scores.append(score)
            # The default is what the best is held against: it is judged in full. After the last
            # fold there is nothing left to save.
            may = len(scores) < self.folds and not trial.user_attrs.get("default")
            if may and trial.should_prune():
                raise pruned
        if scores[0].realised_cost is not None:
            trial.set_user_attr("realised_cost", float(np.mean([s.realised_cost for s in scores])))
        return float(np.mean([score.value for score in scores]))

    def _repeat(self, trial: Any, same: Any) -> float:
        for i, value in enumerate(_folds(same)):
            trial.report(value, i)
        if "error" in same.user_attrs:
            raise PolicyOptError(same.user_attrs["error"])
        if same.state.name == "PRUNED":
            raise load_optuna().TrialPruned
        if "realised_cost" in same.user_attrs:
            trial.set_user_attr("realised_cost", same.user_attrs["realised_cost"])
        return same.value

    def _untried(self, wanted: float = math.inf, running: Sequence[Any] = ()) -> list[Any]:
        """Return the combinations left, where `wanted` trials are enough for all there are."""
        if self.combinations is None or len(self.combinations) > wanted:
            return []
        tried = {key_of(t.params) for t in (*counted(self.study), *running)}
        return [c for c in self.combinations if key_of(c) not in tried]

    def _place(self, number: int) -> int:
        """Return a trial's number among those that were not interrupted: it seeds the trial."""
        return sum(
            t.number < number and (t.state.name != "FAIL" or "error" in t.user_attrs)
            for t in self.study.get_trials(deepcopy=False)
        )


def _folds(trial: Any) -> list[float]:
    return [value for _, value in sorted(trial.intermediate_values.items())]
