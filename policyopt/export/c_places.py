"""Where numbers lie in the C of one exit: fields, parameters, and buffers that are used again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .c_text import TYPES


@dataclass(frozen=True)
class Place:
    """Memory of a value: a name, and where in it; a `lone` one is no array."""

    name: str
    offset: int = 0
    lone: bool = False

    def at(self, flat: str) -> str:
        """Return an element as an expression."""
        if self.lone:
            return self.name
        terms = [t for t in (str(self.offset) if self.offset else "", flat) if t not in ("", "0")]
        if len(terms) == 2 and flat.split(" + ")[0].isdigit():
            first, *rest = flat.split(" + ")
            terms = [str(self.offset + int(first)), *rest]
        return f"{self.name}[{' + '.join(terms) or '0'}]"

    def pointer(self, more: str = "0") -> str:
        """Return the address of an element as an expression."""
        element = self.at(more)
        if self.lone:
            return f"&{element}"
        return self.name if element == f"{self.name}[0]" else f"&{element}"


@dataclass
class Buffer:
    """Working memory of a function; `extra` where only the probabilities need it."""

    name: str
    dtype: np.dtype
    size: int
    extra: bool = False
    own: bool = True  # is to be declared


@dataclass
class Pool:
    """Buffers of one function: those that are free serve again."""

    extra: bool = False
    made: list[Buffer] = field(default_factory=list)
    free: list[Buffer] = field(default_factory=list)

    def take(self, dtype: np.dtype, size: int) -> Buffer:
        """Return a buffer of at least a size."""
        fits = [b for b in self.free if b.dtype == dtype]
        # Where it may not grow it must do: the caller's memory, and what the decision alone has.
        fits = [b for b in fits if b.size >= size or (b.own and b.extra == self.extra)]
        # The caller's first, then the smallest that does, else the largest, which grows.
        fits.sort(key=lambda b: (b.own, b.size < size, b.size if b.size >= size else -b.size))
        if fits:
            found = fits[0]
            self.free.remove(found)
            found.size = max(found.size, size)
            return found
        letter = {"float32": "f", "float64": "d", "bool": "b"}.get(dtype.name, "n")
        number = sum(b.own for b in self.made)
        found = Buffer(f"{letter}{number}", dtype, size, self.extra)
        self.made.append(found)
        return found

    def declared(self, extra: bool) -> list[str]:
        """Return the declarations."""
        return [
            f"{TYPES[b.dtype.name]} {b.name}[{b.size}];"
            for b in self.made
            if b.own and b.extra == extra
        ]
