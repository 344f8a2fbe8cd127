"""Tuning: a search over what a method declares in `space`, judged by cross-validation on the fit rows.

Two settings seldom cost the same on the held-out fold, and accuracy can be bought. So both objectives read the
polyline of accuracy over *realised* cost through the fold's policies and the two ends that every method has (exit
0, full model): a setting that overspends gains nothing. ``area``: mean height between the ends; ``accuracy``: height
at the budget, by three policies fitted for it and a little to either side.

Optuna's ``optimize`` counts trials per call and draws from one stream; here they are counted over all processes, and
each draws from a stream of its own number: a study resumed has the same trials. Its name states what it judges.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote
from weakref import finalize

import numpy as np

from policyopt._cache.data import ExitData, folds_of
from policyopt._costs import Budget, parse_budget, parse_budgets
from policyopt._methods.base import Method, check_budgets, fit_where_possible
from policyopt._methods.registry import ROWS, make_method, parse_value
from policyopt._methods.settings import Choice, Domain, Integer, Real, parse_spec
from policyopt._optional import need
from policyopt._progress import progress, report, working
from policyopt._replay import replay
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._checks import check_one_of, check_seed
from policyopt.runtime._errors import InputError, PolicyOptError, input_error
from policyopt.runtime._shown import Shown
from policyopt.runtime._text import SECRET
from policyopt.runtime._typing import Floats, Ints

OBJECTIVES = ("area", "accuracy")
#: How far the neighbours of a budget stand from it, as a share of the way from exit 0 to the last.
#: Some times the sampling error of a fold's mean cost, so that they bracket the budget.
_BESIDE = 0.1
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
#: More combinations than this are not listed: nobody tries them all.
_LISTED = 10_000
#: Seconds between two signs of life of a trial; without three in turn it is taken for dead.
_HEARTBEAT = 60
#: Two processes that start at once may both make the tables of a new file; the later one retries.
_TRIES = 4


@dataclass(frozen=True, repr=False)
class Tuned(Shown):
    """The result of `tune`; the best of many trials' `value` and errors over shared rows are a little flattering."""

    method: str
    objective: str
    settings: dict[str, Any]  # the best trial's, fixed ones included
    value: float  # mean over folds
    standard_error: float
    default_settings: dict[str, Any]  # the method's own of what was tuned, and the fixed ones
    default_value: float | None  # None where the default could not be fitted
    default_error: float | None
    gain: float | None  # best less default, paired over folds
    gain_error: float | None
    complete: int  # trials
    pruned: int
    failed: int
    exhausted: bool  # whether all combinations there are were tried
    study: str  # its name in the storage
    history: tuple[dict[str, Any], ...]  # one per trial, see `records`

    @property
    def worthwhile(self) -> bool:
        """Whether the gain is more than one standard error."""
        return self.gain is None or self.gain > (self.gain_error or 0.0)

    @property
    def recommended(self) -> dict[str, Any]:
        """The best settings where the gain is worthwhile, else the default ones."""
        return self.settings if self.worthwhile else self.default_settings


@working("tuning")
def tune(
    data: ExitData,
    method: str,
    settings: Mapping[str, Any] | None = None,
    *,
    objective: str = "area",
    budget: Budget | None = None,
    budgets: int | str | Sequence[Budget] = 5,
    trials: int = 30,
    folds: int = 5,
    timeout: float | None = None,
    storage: str | None = None,
    cost: str | None = None,
    seed: int = 0,
    tables: Tables | None = None,
) -> Tuned:
    """Search a method's settings on split `fit`, by cross-validation; test rows are not touched.

    The first trial is the method's default, so the best is never worse than it on these folds.

    Parameters
    ----------
    data : ExitData
    method : str
        A name of the registry, perhaps with settings (``"max_prob:mix=false"``): those are fixed.
    settings : mapping, optional
        More settings that every trial has.
    objective : {"area", "accuracy"}
        Area under the accuracy-cost curve, or accuracy at `budget`; both at equal realised cost.
    budget : float or str, optional
        For ``accuracy``.
    budgets : int, str or sequence
        For ``area``: where each frontier is fitted.
    trials : int
        In all: a study found in the storage goes on until it has as many (several processes that
        work on one storage may each add one more).
    folds : int
    timeout : float, optional
        Seconds after which no further trial starts.
    storage : str, optional
        Any storage URL of Optuna; default in memory, lost at the end.
    cost : str, optional
        Name of the cost; default the cache's first.
    seed : int
        Of the folds, the fits and the search: same seed, same trials.
    tables : Tables, optional
        Reuse of passes already made.

    Returns
    -------
    Tuned

    Raises
    ------
    InputError
        Nothing to tune, another study's storage, no labels, or no trial could be completed.
    BudgetError
        A budget that no policy can meet.

    Examples
    --------
    >>> import policyopt as po
    >>> data = po.from_arrays([[[2, 1], [3, 0]], [[0, 1], [0, 5]]], [0, 1], costs=[1, 4])
    >>> po.tune(data, "always")
    Traceback (most recent call last):
    policyopt.runtime._errors.InputError: 'method' must be one with settings to tune: ...
    """
    started = time.monotonic()
    for name, value, usual in (("trials", trials, 30), ("timeout", timeout, 600)):
        if value is not None and not value > 0:
            raise input_error(name, "more than 0", value, f"E.g. --{name} {usual}.")
    search = make_search(method, settings)
    aim = Objective(objective, budget, budgets)
    tables, seed = tables or Tables(data, cost), check_seed(seed)
    table = known_rows(tables.get("fit"))
    # What would make every trial fail is refused before the first one.
    fold_rows(len(table), folds, seed, table.group)
    _ = table.quality  # needs a label for every row
    aim.check(table)
    if table.plain_only and "answer" in search.domains:  # of others nobody knows the worth
        search = make_search(method, {**(settings or {}), "answer": "plain"})
    plan = {
        "method": search.method,
        "objective": objective,
        "cost": table.cost_name,
        "rows": len(table),
        "budgets": [float(b) for b in aim.wanted(table)],
        "budget": budget,
        "folds": folds,
        "seed": seed,
        "fixed": dict(search.fixed),
        **({} if tables.utility is None else {"utility": tables.utility.digest}),
        "space": {name: repr(domain) for name, domain in search.domains.items()},
    }
    name = study_name(search.method, objective, table.cache, plan)
    with _quiet(), _kept_open(storage):
        run = Run(open_study(storage, name, plan), search, table, aim, folds, seed)
        while not run.exhausted():
            done = len(counted(run.study))
            report(min(done, trials), trials, run.standing())
            enough = done >= trials and run.default_done()
            late = timeout is not None and done and time.monotonic() - started > timeout
            if enough or late:
                break
            with progress(None):  # the trials are what is told
                run.trial(trials)
        return _concluded(run, name)


def _concluded(run: Run, study: str) -> Tuned:
    """Find the best trial and hold it against the default; refuse where no trial was completed."""
    search, history = run.search, records(run.study)
    states = [record["state"] for record in history]
    complete, pruned, failed = (states.count(state) for state in _STATES.values())
    done = [record for record in history if record["state"] == "complete"]
    if not done:
        why = next((r["error"] for r in history if r["error"]), "none was started")
        tried = f"None of {len(history)} trials of '{search.method}'"
        raise InputError(f"{tried} could be completed: {why}")
    # Of equal values the earliest: the default, where nothing is better than it.
    best = max(done, key=lambda r: (r["value"], r["default"], -r["trial"]))
    base = next((r for r in done if r["default"]), None)
    base_value = base_error = gain = gain_error = None
    if base is not None:
        base_value, base_error = base["value"], base["standard_error"]
        gains = np.subtract(best["folds"], base["folds"])
        gain, gain_error = float(gains.mean()), _standard_error(gains)
    default = {**search.fixed, **search.default}
    settings = {**default, **best["settings"]}
    return Tuned(
        search.method, run.objective.name, settings, best["value"], best["standard_error"],
        default, base_value, base_error, gain, gain_error,
        complete, pruned, failed, run.exhausted(), study, tuple(history),
    )  # fmt: skip


def counted(study: Any) -> list[Any]:
    """Return the trials that ended of themselves: not those running, waiting or interrupted."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.name in ("COMPLETE", "PRUNED")
        or (t.state.name == "FAIL" and "error" in t.user_attrs)  # set while the trial still runs
    ]


def records(study: Any) -> list[dict[str, Any]]:
    """Return the trials as records, numbered anew in the order they began."""
    found = []
    for number, trial in enumerate(counted(study)):
        values, notes = _folds(trial), trial.user_attrs
        record = {"trial": number, "state": _STATES[trial.state.name]}
        record["value"] = float(np.mean(values)) if values else None
        record["standard_error"] = _standard_error(values) if len(values) > 1 else None
        record |= {"folds": values, "realised_cost": notes.get("realised_cost")}
        record |= {"default": bool(notes.get("default", False)), "settings": dict(trial.params)}
        found.append({**record, "error": notes.get("error")})
    return found


def _folds(trial: Any) -> list[float]:
    return [value for _, value in sorted(trial.intermediate_values.items())]


def _standard_error(values: Any) -> float:
    values = np.asarray(values, dtype=np.float64)
    return round(float(values.std(ddof=1) / np.sqrt(len(values))), 12)


@dataclass(frozen=True)
class Search:
    """A method of the registry, the settings that every trial has, and those that are tried."""

    method: str
    fixed: Mapping[str, Any]
    domains: Mapping[str, Domain]
    default: Mapping[str, Any]  # the method's own values of what is tried

    def start(self) -> dict[str, Any]:
        """Return the default's values where a trial may have them; elsewhere it is not set."""
        return {k: v for k, v in self.default.items() if _holds(self.domains[k], v)}


def make_search(spec: str, fixed: Mapping[str, Any] | None = None) -> Search:
    """Return what to search for a method; settings within its name, and `fixed` ones, are not tried."""
    make_method(spec, fixed)  # refuses what it does not know
    name, inline = parse_spec(spec)
    space = _space_of(name)
    if not space:
        able = ", ".join(n for n in ROWS if _space_of(n)) or "none yet"
        allowed, step = f"one with settings to tune: {able}", f"Use `policyopt fit` for {name}."
        raise input_error("method", allowed, name, step)
    given = {key: parse_value(value) for key, value in {**(fixed or {}), **inline}.items()}
    domains = {key: domain for key, domain in space.items() if key not in given}
    if not domains:
        allowed = f"fewer than all that {name} can tune ({', '.join(space)})"
        raise input_error("settings fixed", allowed, ", ".join(given), "Drop a --set.")
    defaults = ROWS[name].settings()
    return Search(name, given, domains, {key: defaults[key] for key in domains})


def _space_of(name: str) -> dict[str, Domain]:
    """Return the domains that a method of the registry declares and its row leaves open."""
    row = ROWS[name]
    return {k: domain for k, domain in row.load().space().items() if k not in row.preset}


def _holds(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return any(type(option) is type(value) and option == value for option in domain.options)
    kinds = (int, float) if isinstance(domain, Real) else (int,)
    return type(value) in kinds and domain.low <= value <= domain.high


def _key_of(settings: Mapping[str, Any]) -> str:
    """Return a text that tells settings apart, ``True`` from ``1`` too."""
    return json.dumps(dict(settings), sort_keys=True, default=str)


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
        """All there is to try, in random order; None where that has no end."""
        domains, options = self.search.domains, list[Sequence[Any]]()
        for domain in domains.values():
            if isinstance(domain, Real):
                return None
            whole = isinstance(domain, Integer)
            options.append(range(domain.low, domain.high + 1) if whole else domain.options)
        if math.prod(map(len, options)) > _LISTED:
            return None
        every = [dict(zip(domains, values, strict=True)) for values in product(*options)]
        return [every[i] for i in np.random.default_rng(self.seed).permutation(len(every))]

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
        pruned = _optuna().TrialPruned

        def judged(trial: Any) -> float:
            try:
                return self._judge(trial, self._choose(trial, wanted))
            except BaseException as error:
                if isinstance(error, PolicyOptError):  # settings at odds, a budget out of reach
                    trial.set_user_attr("error", str(error))
                elif not isinstance(error, pruned):  # interrupted: whoever resumes tries it again
                    _again(self.study, trial)
                raise

        self.study.optimize(judged, n_trials=1, catch=(PolicyOptError,))

    def _choose(self, trial: Any, wanted: int) -> dict[str, Any]:
        """Return the settings of a trial: the default, one left to try, or what the sampler says."""
        optuna = _optuna()
        every = self.study.get_trials(deepcopy=False)
        running = [t for t in every if t.state.name == "RUNNING" and t.number != trial.number]
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
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(multivariate=False, constant_liar=True, seed=seed)
        self.study.sampler = optuna.samplers.PartialFixedSampler(chosen, sampler)
        # Where the default lies outside what may be tried, its trial goes without that setting.
        names = self.search.start() if trial.user_attrs.get("default") else self.search.domains
        values: dict[str, Any] = {}
        for name in filter(names.__contains__, self.search.domains):
            domain = self.search.domains[name]
            if isinstance(domain, Choice):
                values[name] = trial.suggest_categorical(name, list(domain.options))
            else:
                whole = isinstance(domain, Integer)
                suggest = trial.suggest_int if whole else trial.suggest_float
                values[name] = suggest(name, domain.low, domain.high, log=domain.log)
        return values

    def _judge(self, trial: Any, params: Mapping[str, Any]) -> float:
        """Return the mean of the objective over folds, or raise what ended the trial."""
        key = _key_of(params)
        same = next((t for t in counted(self.study) if _key_of(t.params) == key and params), None)
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
                raise _optuna().TrialPruned
        if scores[0].realised_cost is not None:
            trial.set_user_attr("realised_cost", float(np.mean([s.realised_cost for s in scores])))
        return float(np.mean([score.value for score in scores]))

    def _repeat(self, trial: Any, same: Any) -> float:
        for i, value in enumerate(_folds(same)):
            trial.report(value, i)
        if "error" in same.user_attrs:
            raise PolicyOptError(same.user_attrs["error"])
        if same.state.name == "PRUNED":
            raise _optuna().TrialPruned
        if "realised_cost" in same.user_attrs:
            trial.set_user_attr("realised_cost", same.user_attrs["realised_cost"])
        return same.value

    def _untried(self, wanted: float = math.inf, running: Sequence[Any] = ()) -> list[Any]:
        """Return the combinations left, where `wanted` trials are enough for all there are."""
        if self.combinations is None or len(self.combinations) > wanted:
            return []
        tried = {_key_of(t.params) for t in (*counted(self.study), *running)}
        return [c for c in self.combinations if _key_of(c) not in tried]

    def _place(self, number: int) -> int:
        """Return a trial's number among those that were not interrupted: it seeds the trial."""
        return sum(
            t.number < number and (t.state.name != "FAIL" or "error" in t.user_attrs)
            for t in self.study.get_trials(deepcopy=False)
        )


def _optuna() -> Any:
    return need("optuna", "fit", "for tuning")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's log and its remarks on what is experimental to itself; our own table tells."""
    optuna = _optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # SciPy's remark that a test over five folds has few values: known.
            warnings.filterwarnings("ignore", module="scipy.stats")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def study_name(method: str, objective: str, cache: str, plan: Mapping[str, Any]) -> str:
    """Return the name of a study: what it judges, and a digest of all that its values depend on."""
    digest = hashlib.sha256(_key_of({**plan, "cache": cache}).encode()).hexdigest()[:8]
    return f"{method}, {objective}, cache {cache[:12]}, plan {digest}"


def open_study(storage: str | None, name: str, plan: Mapping[str, Any]) -> Any:
    """Create a study, or load the one of that name; None: in memory; a file holds one study, a server many."""
    for tried in range(1, _TRIES + 1):
        try:
            study = _create(storage, name)
            study.set_user_attr("plan", _key_of(plan))  # for people
            return study
        except InputError:
            raise
        except Exception as error:  # of SQLAlchemy, of a driver, of Optuna: all mean a bad URL
            if tried == _TRIES or not _passing(error):
                step = "E.g. sqlite:///tuned/study.db; servers need their driver installed."
                raise _refused(storage, "a storage URL that Optuna can open", error, step) from None
            time.sleep(0.2 * tried)


def _again(study: Any, trial: Any) -> None:
    """Have the settings of a trial that did not end tried again."""
    marks = {"again": True, "default": bool(trial.user_attrs.get("default"))}
    study.enqueue_trial(trial.params, user_attrs=marks)


def _create(storage: str | None, name: str) -> Any:
    optuna = _optuna()
    place: Any = optuna.storages.InMemoryStorage()
    if storage is not None:
        is_file = storage.startswith("sqlite")
        # Several processes on one file wait for each other's writes instead of failing.
        arguments = {"connect_args": {"timeout": 60}} if is_file else None
        # The heart of a process that was killed stops, and another takes up its trial.
        beats: Any = {"heartbeat_interval": _HEARTBEAT, "grace_period": 3 * _HEARTBEAT}
        kind, new = optuna.storages.RDBStorage, "heartbeat_stale_trial_callback"  # since 4.9
        name_of_it = new if new in signature(kind).parameters else "failed_trial_callback"
        place = kind(storage, engine_kwargs=arguments, **beats, **{name_of_it: _again})
        others = [other for other in optuna.get_all_study_names(place) if other != name]
        if is_file and others:
            step = (
                "Another cache, cost, objective, seed or --set is another study: choose another "
                "--out (or --storage), or delete that file to start anew."
            )
            raise input_error("storage", f"empty or of this study: {name}", f"'{others[0]}'", step)
    # A median rule would compare running means, though folds differ more than settings do; the signed-rank
    # test compares a trial's folds with the best's. At p < 0.2 a trial ends once it is behind on each of
    # three folds (p = 1/8), or behind on four but for the smallest difference; at Optuna's 0.1 none could
    # before the fourth. An equal setting is lost by chance in 1 of 8 cases, which costs nothing.
    pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.2)
    options = {"direction": "maximize", "pruner": pruner, "load_if_exists": True}
    study = optuna.create_study(storage=place, study_name=name, **options)
    if storage is not None:
        finalize(study, place.engine.dispose)  # connections to a server are not left to chance
    return study


def _passing(error: Exception) -> bool:
    """Whether another process may have been about to make the tables."""
    from sqlalchemy.exc import DBAPIError

    internal = _optuna().exceptions.StorageInternalError
    return isinstance(error, (DBAPIError, internal, RuntimeError, AssertionError))


@contextmanager
def _kept_open(storage: str | None) -> Iterator[None]:
    """Say by name, and without its password, that a storage failed within the block."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, _optuna().exceptions.StorageInternalError) as error:
        step = "The same command goes on where it stopped."
        raise _refused(storage, "a storage that can be read and written", error, step) from None


def _refused(storage: str | None, allowed: str, error: Exception, step: str) -> InputError:
    # Not chained: what drivers raise may hold the password, and tracebacks are shown, too.
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    return input_error("storage", allowed, _masked(f"{storage} ({why})", storage or ""), step)


def _masked(text: str, url: str) -> str:
    """Return a text without the passwords of a URL, in whatever form they stand in it.

    >>> _masked("no host b@h (u:a%20b@h)", "mysql://u:a%20b@h/db?ssl_password=c")
    'no host b@h (u:***@h)'
    """
    address, _, options = url.partition("?")
    users = [part.rpartition("@")[0] for part in (address, url)]  # a password may hold ? and @
    secrets = [(user.partition("://")[2] or user).partition(":")[2] for user in users]
    secrets += [value for name, value in parse_qsl(options) if SECRET.search(name)]
    for secret in sorted({*secrets, *map(unquote, secrets)}, key=len, reverse=True):
        text = text.replace(secret, "***") if secret else text
    return text


# --- what one fold is scored by --------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """What one fold is scored by; higher is better, in [0, 1]."""

    name: str = "area"
    budget: Budget | None = None  # for accuracy: 2.5 in the unit, or "40%" of the full model
    budgets: int | str | Sequence[Budget] = 5  # for area: where the frontier is fitted

    def __post_init__(self) -> None:
        check_one_of("objective", self.name, OBJECTIVES, "Choose one.")
        if (self.name == "accuracy") != (self.budget is not None):
            allowed = "given with the objective accuracy, and only with it"
            got = f"{self.budget or 'none'} with {self.name}"
            raise input_error("budget", allowed, got, "E.g. --objective accuracy --budget 40%.")

    def wanted(self, table: Table) -> list[float]:
        """Return the budgets to fit, in the unit of the table's costs, ascending."""
        costs, unit = table.mean_costs, table.unit
        if self.budget is None:
            return sorted(set(parse_budgets(self.budgets, costs, unit)))
        target = parse_budget(self.budget, costs, unit)
        low, high = float(costs[0]), float(costs[-1])
        beside = _BESIDE * (high - low)
        # Near an end, half-way to it: the end itself is on the polyline anyway.
        lower = max(target - beside, (target + low) / 2)
        upper = min(target + beside, (target + high) / 2)
        return sorted({lower, target, upper})

    def check(self, table: Table) -> None:
        """Refuse budgets that no policy can meet on all rows (`BudgetError`), before any fit."""
        costs, unit = table.mean_costs, table.unit
        asked = None if self.budget is None else [parse_budget(self.budget, costs, unit)]
        check_budgets(table, asked or self.wanted(table))


class FoldScore(NamedTuple):
    """The objective on one fold, and what the policy for the budget cost there (None for area)."""

    value: float
    realised_cost: float | None


def fold_rows(rows: int, folds: int, seed: int, group: Ints | None = None) -> list[Ints]:
    """Return the rows of each fold, drawn by a seed, groups whole, ascending within a fold."""
    if not 2 <= folds <= rows // 2:
        raise input_error("folds", f"from 2 to half the {rows} fit rows", folds, "E.g. --folds 5.")
    if group is not None:
        fold = folds_of(rows, folds, seed, group)
        if not fold.any():
            step = "Import rows of more groups: one is never divided."
            raise input_error("fit rows", "of two groups or more", "one", step)
        return [np.flatnonzero(fold == f) for f in range(int(fold.max()) + 1)]
    order = np.random.default_rng(seed).permutation(rows)
    # Ascending, so that a pass over class outputs on disk reads each block once.
    return [np.sort(part) for part in np.array_split(order, folds)]


def score_folds(
    method: Method, table: Table, objective: Objective, folds: int, seed: int
) -> Iterator[FoldScore]:
    """Yield the objective on each fold, the method fitted on the others; all settings meet the same."""
    parts = fold_rows(len(table), folds, seed, table.group)
    for i, part in enumerate(parts):
        rest = np.sort(np.concatenate(parts[:i] + parts[i + 1 :]))
        yield score_fold(method, table.take(rest), table.take(part), objective, seed)


def score_fold(
    method: Method, train: Table, held: Table, objective: Objective, seed: int
) -> FoldScore:
    """Fit a method on `train`, replay it on `held` and return the objective there."""
    budgets = objective.wanted(train)
    fitted = fit_where_possible(method, train, budgets, seed, validate=False)
    target = None
    if objective.budget is not None:
        target = parse_budget(objective.budget, train.mean_costs, train.unit)
        if fitted[budgets.index(target)] is None:
            method.propose(train, [target], seed)  # says what it cannot meet
    # Of the others, those that the method can meet: its own arithmetic may be too much for some.
    budgets = [b for b, one in zip(budgets, fitted, strict=True) if one is not None]
    outcomes = [replay(one.policy, held) for one in fitted if one is not None]
    realised = [float(outcome.cost.mean()) for outcome in outcomes]
    found = [float(outcome.quality.mean()) for outcome in outcomes]
    low, high = held.mean_costs[[0, -1]].tolist()
    first, last = held.quality.mean(axis=0)[[0, -1]].tolist()
    cost, accuracy = np.array([low, *realised, high]), np.array([first, *found, last])
    if target is None:
        return FoldScore(mean_height(cost, accuracy, low, high), None)
    order = np.argsort(cost, kind="stable")
    height = float(np.interp(target, cost[order], accuracy[order]))
    return FoldScore(height, realised[budgets.index(target)])


def mean_height(cost: Floats, accuracy: Floats, low: float, high: float) -> float:
    """Return the mean over cost, from `low` to `high`, of the polyline (not its hull) through points (P,)."""
    order = np.argsort(cost, kind="stable")
    grid = np.union1d(np.clip(cost, low, high), [low, high])
    height = np.interp(grid, cost[order], accuracy[order])
    if high <= low:
        return float(height.mean())
    return float((height[1:] + height[:-1]) / 2 @ np.diff(grid)) / (high - low)
