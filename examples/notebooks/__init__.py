"""Notebooks to click through, and what runs them anew."""
