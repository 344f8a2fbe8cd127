"""Studies in a storage of Optuna: opened by a name that states what they judge, never mixed."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote

from policyopt.runtime.errors import InputError, MissingExtraError, input_error
from policyopt.runtime.text import SECRET
from policyopt.tuning.search import key_of

#: Two processes that start at once may both make the tables of a new file; the later one retries.
_TRIES = 4


def load_optuna() -> Any:
    """Import Optuna, or say which extra has it."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Tuning needs the package 'optuna', which is not installed. "
            "Install the extra that has it: pip install 'policyopt[fit]'."
        ) from error
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log and its remarks on what is experimental to itself; our own table tells."""
    optuna = load_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # SciPy's remark that a test over five folds has few values: known (see `make_pruner`).
            warnings.filterwarnings("ignore", module="scipy.stats")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def study_name(method: str, objective: str, cache: str, plan: Mapping[str, Any]) -> str:
    """Return the name of a study: what it judges, and a digest of all that its values depend on.

    Examples
    --------
    >>> study_name("margin", "area", "0123456789abcdef", {"folds": 5})
    'margin, area, cache 0123456789ab, plan 13acaa7c'
    """
    digest = hashlib.sha256(key_of({**plan, "cache": cache}).encode()).hexdigest()[:8]
    return f"{method}, {objective}, cache {cache[:12]}, plan {digest}"


def open_study(storage: str | None, name: str, plan: Mapping[str, Any], pruner: Any) -> Any:
    """Create a study, or load the one of that name.

    A file (``sqlite:///PATH``) is one study's: another's is refused, for whoever names the same
    file means to go on with it. A server holds many studies side by side, told apart by name.

    Parameters
    ----------
    storage : str or None
        URL as Optuna takes it; None keeps the study in memory.
    name : str
        From `study_name`.
    plan : mapping
        Kept with the study, for people.
    pruner : optuna pruner

    Returns
    -------
    optuna.Study

    Raises
    ------
    InputError
        The storage cannot be opened, or the file is another study's.
    """
    left = _TRIES
    while True:
        left -= 1
        try:
            study = _create(storage, name, pruner)
            study.set_user_attr("plan", key_of(plan))
            return study
        except InputError:
            raise
        except Exception as error:  # of SQLAlchemy, of a driver, of Optuna: all mean a bad URL
            if not left or not _passing(error):
                step = "E.g. sqlite:///tuned/study.db; servers need their driver installed."
                raise _refused(storage, "a storage URL that Optuna can open", error, step) from None
            time.sleep(0.2 * (_TRIES - left))


@contextmanager
def kept_open(storage: str | None) -> Iterator[None]:
    """Say by name, and without its password, that a storage failed within the block."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, load_optuna().exceptions.StorageInternalError) as error:
        step = "The same command goes on where it stopped."
        raise _refused(storage, "a storage that can be read and written", error, step) from None


def _refused(storage: str | None, allowed: str, error: Exception, step: str) -> InputError:
    # Not chained: what drivers raise may hold the password, and tracebacks are shown, too.
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    return input_error("storage", allowed, _masked(f"{storage} ({why})", storage or ""), step)


def _masked(text: str, url: str) -> str:
    """Return a text without the passwords of a URL, in whatever form they stand in it.

    Examples
    --------
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


def make_pruner() -> Any:
    """Return Optuna's pruner for paired values: the folds of a trial against those of the best.

    A median rule would compare running means, though folds differ more than settings do; the
    signed-rank test compares fold by fold. At p < 0.2 a trial ends once it is behind on each of
    three folds (p = 1/8), or behind on four but for the smallest difference. With one of 0.1, as
    Optuna has it, nothing could end before the fourth fold. An equal setting is lost by chance in
    1 of 8 cases, which costs nothing; a better one seldom.
    """
    return load_optuna().pruners.WilcoxonPruner(p_threshold=0.2)


def _passing(error: Exception) -> bool:
    """Whether another process may have been about to make the tables."""
    from sqlalchemy.exc import DBAPIError

    internal = load_optuna().exceptions.StorageInternalError
    return isinstance(error, (DBAPIError, internal, RuntimeError, AssertionError))


def _create(storage: str | None, name: str, pruner: Any) -> Any:
    optuna = load_optuna()
    place = optuna.storages.InMemoryStorage()
    if storage is not None:
        is_file = storage.startswith("sqlite")
        # Several processes on one file wait for each other's writes instead of failing.
        arguments = {"connect_args": {"timeout": 60}} if is_file else None
        place = optuna.storages.RDBStorage(storage, engine_kwargs=arguments)
        others = [other for other in optuna.get_all_study_names(place) if other != name]
        if is_file and others:
            raise input_error(
                "storage", f"empty or of this study: {name}", f"one of '{others[0]}'",
                "Another cache, cost, objective, seed or --set is another study: choose another "
                "--out (or --storage), or delete that file to start anew.",
            )  # fmt: skip
    return optuna.create_study(
        storage=place, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
