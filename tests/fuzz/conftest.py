"""A place for files that are written twenty thousand times."""

from faults import room as place  # noqa: F401
