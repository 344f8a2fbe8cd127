"""Thresholds under a budget: one solver per file, each from scores to a `Solution`."""
