"""Threshold solvers: from scores and values of rows to thresholds that meet a budget."""
