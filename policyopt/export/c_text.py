"""C99 spelling: types, literals, indices and tables of numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: A dtype's C type, where numbers are kept.
TYPES = {
    "bool": "unsigned char", "int32": "int32_t", "int64": "int64_t", "float32": "float",
    "float64": "double",
}  # fmt: skip
#: An index into one axis: a number, or the name of a loop's variable.
Index = int | str


def literal(value: Any, dtype: np.dtype[Any]) -> str:
    """Return a number as C writes it, to the same bits.

    Examples
    --------
    >>> [literal(x, np.dtype(t)) for x, t in ((0.1, "f8"), (-2, "f4"), (np.inf, "f8"), (1, "?"))]
    ['0.1', '(-2.0f)', '((double)INFINITY)', '1']
    """
    if dtype.kind != "f":
        number = int(value)
        text = f"INT64_C({number})" if abs(number) >= 1 << 31 else str(number)
        return f"({text})" if number < 0 else text
    single = dtype.itemsize == 4
    if np.isnan(value):
        return "NAN" if single else "((double)NAN)"
    if np.isinf(value):
        text = "INFINITY" if single else "((double)INFINITY)"
        return f"(-{text})" if value < 0 else text
    # The shortest decimals that are read back as the same number.
    text = str(np.float32(value)) + "f" if single else repr(float(value))
    return f"({text})" if text.startswith("-") else text


def string(text: str) -> str:
    r"""Return a text as a C string of UTF-8: every byte that C, its preprocessor or our templates read is octal.

    Examples
    --------
    >>> string('ms/"@'), string("µ")
    ('"ms/\\042\\100"', '"\\302\\265"')
    """
    return '"' + "".join(_byte(b) for b in text.encode("utf-8", "replace")) + '"'


def _byte(byte: int) -> str:
    letter = chr(byte)
    return letter if byte < 128 and (letter.isalnum() or letter in " .,/%-_") else f"\\{byte:03o}"


def strides(shape: Sequence[int]) -> list[int]:
    """Return how many numbers lie between neighbours of each axis.

    Examples
    --------
    >>> strides((2, 3, 4))
    [12, 4, 1]
    """
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def flat(index: Sequence[Index], shape: Sequence[int], offset: int = 0) -> str:
    """Return the place of an element in memory.

    Examples
    --------
    >>> flat((1, "i", "j"), (2, 3, 4)), flat(("i",), (5,), 10)
    ('12 + 4 * i + j', '10 + i')
    """
    terms = []
    for at, size, stride in zip(index, shape, strides(shape), strict=True):
        if isinstance(at, int):
            offset += at * stride
        elif size > 1:
            terms.append(at if stride == 1 else f"{stride} * {at}")
    return " + ".join(([str(offset)] if offset or not terms else []) + terms)


class Numbers:
    """The header's tables; equal ones are one table."""

    def __init__(self, name: str) -> None:
        self.name, self.lines, self.bytes = name, [], 0
        self._named: dict[Any, str] = {}
        self.lines: list[str]

    def table(self, what: str, values: npt.NDArray[Any], dtype: Any = None) -> str:
        """Return the name of a table of numbers, row by row in memory."""
        array = np.ascontiguousarray(values, dtype=dtype)
        key = array.dtype.str, array.tobytes()
        if key not in self._named:
            name = f"{self.name}_{what}{len(self._named)}"
            self._named[key] = name
            self.bytes += array.nbytes
            numbers = ", ".join(literal(x, array.dtype).strip("()") for x in array.ravel())
            if "INFINITY" in numbers or "NAN" in numbers:  # those have parentheses of their own
                numbers = ", ".join(literal(x, array.dtype) for x in array.ravel())
            rows = " x ".join(map(str, array.shape))
            self.lines += [
                f"/* {rows} */",
                f"static const {TYPES[array.dtype.name]} {name}[{array.size}] = {{",
                *textwrap.wrap(numbers, 92, initial_indent="    ", subsequent_indent="    "),
                "};",
            ]
        return self._named[key]
