"""Diagnostics of one policy, as data and as pictures; one file per question."""

from policyopt.report.explain.explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
