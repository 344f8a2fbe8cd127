"""Which splits a cache may have, and how a pool may be divided."""

from __future__ import annotations

from collections.abc import Mapping

from policyopt.cache.data import POOL
from policyopt.cache.layout import check_name
from policyopt.runtime.errors import input_error

#: How a pool is divided where nobody says.
DEFAULT_SHARES: Mapping[str, float] = {"fit": 0.5, "test": 0.5}


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of a pool, in the given order, where they can be disjoint.

    Parameters
    ----------
    shares : mapping of str to float
        Positive, adding to at most 1.

    Raises
    ------
    InputError
        They add to more than 1 (the splits would overlap), or one is not positive.

    Examples
    --------
    >>> check_shares({"fit": 0.5, "test": 0.5})
    {'fit': 0.5, 'test': 0.5}
    """
    if not isinstance(shares, Mapping) or not shares:
        raise input_error("split", "shares by name", shares, "E.g. fit=0.5,test=0.5.")
    for name, share in shares.items():
        if check_name("split", name) == POOL:
            raise input_error("split", f"any name but {POOL}", POOL, "The pool is what is divided.")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise input_error(f"split {name}", "a share in (0, 1]", share, "E.g. fit=0.5,test=0.5.")
    if sum(shares.values()) > 1 + 1e-9:
        total = f"{sum(shares.values()):g}"
        raise input_error(
            "split", "shares adding to at most 1 (else splits overlap)", total, "Lower one."
        )
    return {name: float(share) for name, share in shares.items()}


def check_splits(rows: dict[str, int], shares: dict[str, float]) -> None:
    """Refuse empty splits, a pool beside named splits, and shares without a pool.

    Parameters
    ----------
    rows : dict of str to int
        Rows per split (or of the pool).
    shares : dict of str to float
        How the pool is divided.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_splits({"pool": 10}, {"fit": 0.5, "test": 0.01})
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'split test' must be of at least one row. Got 0.01 of 10...
    """
    if not rows:
        raise input_error("rows", "at least 1", "none", "Append rows to at least one split.")
    for name, count in rows.items():
        if count < 1:
            raise input_error(f"split {name}", "of at least one row", 0, "Leave it out.")
    if POOL not in rows:
        if shares:
            raise input_error(
                "shares", f"given only for the split {POOL!r}", f"{shares}", "Leave them out."
            )
        return
    if len(rows) > 1:
        raise input_error(
            "splits",
            f"either {POOL!r} alone or named splits",
            f"{sorted(rows)}",
            "Name every split, or give all rows as the pool.",
        )
    if not shares:
        raise input_error("shares", "given for a pool", "none", "E.g. {'fit': 0.5, 'test': 0.5}.")
    edge, total = 0.0, rows[POOL]
    for name, share in shares.items():
        if round((edge + share) * total) - round(edge * total) < 1:
            raise input_error(
                f"split {name}",
                "of at least one row",
                f"{share:g} of {total} rows",
                "Raise its share or give more rows.",
            )
        edge += share
