"""Fitted policies that tests share: a method is trained once per process, whoever asks for it."""

from __future__ import annotations

from functools import cache as once

from synthetic import cache

from policyopt._checking import BUDGETS
from policyopt._methods.registry import make_method
from policyopt._table import Tables


@once
def fits(spec, budgets=BUDGETS, rows=1000, seed=0):
    """Return the fits for the budgets and the tables they were fitted on."""
    tables = Tables(cache(rows))
    return make_method(spec).fit_path(tables.get("fit"), list(budgets), seed), tables


def fitted(spec):
    """Return the method's policy for a budget of 3.7 ms."""
    return fits(spec)[0][2].policy
