"""Figures (and, later, pages) for people."""
