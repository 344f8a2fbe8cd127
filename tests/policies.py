"""Fitted policies that tests share: a method is trained once per process, whoever asks for it."""

from __future__ import annotations

from functools import cache as remembered

from synthetic import cache

from policyopt._methods.registry import make_method
from policyopt._table import Tables

BUDGETS = (1.3, 2.0, 3.7, 6.5)


def trained(spec, budgets=BUDGETS, rows=1000, seed=0):
    """Return the fits for the budgets and the tables they were fitted on, made anew."""
    tables = Tables(cache(rows))
    return make_method(spec).fit_path(tables.get("fit"), list(budgets), seed), tables


#: The same, made once.
fits = remembered(trained)


def fitted(spec):
    """Return the method's policy for a budget of 3.7 ms, made once."""
    return fits(spec)[0][2].policy
