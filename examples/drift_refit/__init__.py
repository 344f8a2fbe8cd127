"""A policy that is watched, and fitted anew without labels when the inputs have changed."""
