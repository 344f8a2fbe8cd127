"""Functions of the C header, each written out where a policy uses it.

Sums go in numpy's order (eight partial sums side by side, halves from 129 numbers on), so that they
have the runtime's bits: Higham, "The accuracy of floating point summation", 1993, section 3, on
pairwise sums; blocks and unrolling as documented in numpy's ``loops_utils.h``.
"""

from __future__ import annotations

#: numpy's pairwise sum of TERM; eight names, for which compilers find registers, where an array is slow.
_SUM = """\
static {type} {name}({given}, int n) {{
    {type} a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0, sum;
    int i = 0;
    if (n > 128) {{
        const int half = n / 2 - n / 2 % 8;
        return {name}({first}, half)
            + {name}({second}, n - half);
    }}
    for (; i + 8 <= n; i += 8) {{
{eight}
    }}
    sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    for (; i < n; ++i) sum += {one};
    return sum;
}}
"""


def _sum(name: str, kind: str, given: str, term: str, first: str, second: str) -> str:
    eight = "\n".join(
        f"        {letter} += {term.replace('@', f'i + {j}' if j else 'i')};"
        for j, letter in enumerate("abcdefgh")
    )
    return _SUM.format(
        name=name, type=kind, given=given, first=first, second=second, eight=eight,
        one=term.replace("@", "i"),
    )  # fmt: skip


def _dot(name: str, kind: str) -> str:
    cast = "(double)" if kind == "float" else ""
    return _sum(
        name, "double", f"const {kind} *x, const double *w", f"{cast}x[@] * w[@]", "x, w",
        "x + half, w + half",
    )  # fmt: skip


def _distance(name: str, kind: str) -> str:
    cast = "(double)" if kind == "float" else ""
    return f"""\
static double {name}(const {kind} *x, const double *point, int n) {{
    double total = 0.0;
    int i;
    for (i = 0; i < n; ++i) {{
        const double gap = {cast}x[i] - point[i];
        total += gap * gap;
    }}
    return sqrt(total);
}}
"""


def _extreme(name: str, kind: str, sign: str) -> str:
    nan = " || x != x" if kind in ("float", "double") else ""  # as numpy: NaN wins
    return f"""\
static {kind} {name}({kind} x, {kind} y) {{
    return x {sign} y{nan} ? x : y;
}}
"""


def _abs(name: str, kind: str) -> str:
    return f"static {kind} {name}({kind} x) {{\n    return x < 0 ? -x : x;\n}}\n"


def _logaddexp(name: str, kind: str) -> str:
    f, log2 = ("f", "0.6931472f") if kind == "float" else ("", "0.6931471805599453")
    return f"""\
static {kind} {name}({kind} x, {kind} y) {{
    const {kind} gap = x - y;
    if (x == y) return x + {log2};
    if (gap > 0) return x + log1p{f}(exp{f}(-gap));
    return gap <= 0 ? y + log1p{f}(exp{f}(gap)) : gap;
}}
"""


def _search(name: str, right: bool) -> str:
    sign = "<=" if right else "<"
    return f"""\
/* How many of n rising edges lie below x, {"or at" if right else "not at"} it. */
static int64_t {name}(double x, const double *edges, int n) {{
    int low = 0, high = n;
    if (x != x) return n;
    while (low < high) {{
        const int middle = low + (high - low) / 2;
        if (edges[middle] {sign} x) low = middle + 1; else high = middle;
    }}
    return low;
}}
"""


def _interp(name: str) -> str:
    return f"""\
/* Straight lines between knots; level outside. */
static double {name}(double x, const double *knots, const double *values, int n) {{
    int low = 0, high = n; /* after the loop: knots[low - 1] <= x < knots[low] */
    if (x != x) return x;
    while (low < high) {{
        const int middle = low + (high - low) / 2;
        if (knots[middle] <= x) low = middle + 1; else high = middle;
    }}
    if (low == 0) return values[0];
    if (low == n || x == knots[low - 1]) return values[low - 1];
    return (values[low] - values[low - 1]) / (knots[low] - knots[low - 1]) * (x - knots[low - 1])
        + values[low - 1];
}}
"""


def _coin(name: str) -> str:
    return f"""\
/* A number in [0, 1) by the sample's number: SplitMix64's finaliser. */
static double {name}(int64_t sample, uint64_t key) {{
    uint64_t z = ((uint64_t)sample + 1u) * UINT64_C(0x9E3779B97F4A7C15) + key;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z = z ^ (z >> 31);
    return (double)(z >> 40) * 5.9604644775390625e-08;
}}
"""


def _best(name: str) -> str:
    return f"""\
/* The largest, the first of equals; -1 where it is not finite or one is NaN. */
static int {name}(const float *x, int n) {{
    int i, best = 0, nan = x[0] != x[0];
    for (i = 1; i < n; ++i) {{
        nan |= x[i] != x[i];
        if (x[i] > x[best]) best = i;
    }}
    return nan || !(fabsf(x[best]) <= FLT_MAX) ? -1 : best;
}}
"""


def _next(name: str) -> str:
    return f"""\
/* The following ranks by difference to the largest; class -1 where none is left. */
static void {name}(const float *x, int n, int best, float peak, int ranks, float *gaps, int32_t *classes) {{
    int i, rank;
    for (rank = 0; rank < ranks; ++rank) {{
        gaps[rank] = -INFINITY;
        classes[rank] = -1;
    }}
    for (i = 0; i < n; ++i) {{
        const float gap = x[i] - peak;
        if (i == best || !(gap > gaps[ranks - 1])) continue;
        for (rank = ranks - 1; rank > 0 && gap > gaps[rank - 1]; --rank) {{
            gaps[rank] = gaps[rank - 1];
            classes[rank] = classes[rank - 1];
        }}
        gaps[rank] = gap;
        classes[rank] = i;
    }}
}}
"""


def _rest(name: str) -> str:
    return "/* Sum over the classes but the largest, relative to it. */\n" + _sum(
        name, "float", "const float *x, int best, float peak",
        "@ == best ? 0.0f : expf(x[@] - peak)", "x, best, peak", "x + half, best - half, peak",
    )  # fmt: skip


def _spread(name: str) -> str:
    return f"""\
/* The same sum, and that of the same times the difference, in one go: sums[0], sums[1]. */
static void {name}(const float *x, int best, float peak, int n, float *sums) {{
    float rest[8] = {{0}}, spread[8] = {{0}};
    int i = 0, j;
    if (n > 128) {{
        const int half = n / 2 - n / 2 % 8;
        float more[2];
        {name}(x, best, peak, half, sums);
        {name}(x + half, best - half, peak, n - half, more);
        sums[0] += more[0];
        sums[1] += more[1];
        return;
    }}
    for (; i + 8 <= n; i += 8)
        for (j = 0; j < 8; ++j) {{
            const float gap = x[i + j] - peak, part = expf(gap);
            if (i + j == best || !(part > 0.0f)) continue; /* a class that cannot be counts as 0 */
            rest[j] += part;
            spread[j] += part * gap;
        }}
    sums[0] = ((rest[0] + rest[1]) + (rest[2] + rest[3])) + ((rest[4] + rest[5]) + (rest[6] + rest[7]));
    sums[1] = ((spread[0] + spread[1]) + (spread[2] + spread[3]))
        + ((spread[4] + spread[5]) + (spread[6] + spread[7]));
    for (; i < n; ++i) {{
        const float gap = x[i] - peak, part = expf(gap);
        if (i == best || !(part > 0.0f)) continue;
        sums[0] += part;
        sums[1] += part * gap;
    }}
}}
"""


def _finite(name: str) -> str:
    return f"""\
/* Whether all are finite. */
static int {name}(const float *x, int n) {{
    int i, good = 1;
    for (i = 0; i < n; ++i) good &= fabsf(x[i]) <= FLT_MAX;
    return good;
}}
"""


def _probable(name: str) -> str:
    return f"""\
/* Whether these are probabilities that sum to 1. */
static int {name}(const float *x, int n) {{
    double sum = 0.0;
    int i, good = 1;
    for (i = 0; i < n; ++i) {{
        good &= x[i] >= 0.0f;
        sum += (double)x[i];
    }}
    return good && fabs(sum - 1.0) <= 0.02;
}}
"""


_MAKERS = {
    "sum_float": lambda n: _sum(n, "float", "const float *x", "x[@]", "x", "x + half"),
    "sum_double": lambda n: _sum(n, "double", "const double *x", "x[@]", "x", "x + half"),
    "dot_float": lambda n: _dot(n, "float"),
    "dot_double": lambda n: _dot(n, "double"),
    "distance_float": lambda n: _distance(n, "float"),
    "distance_double": lambda n: _distance(n, "double"),
    "logaddexp_float": lambda n: _logaddexp(n, "float"),
    "logaddexp_double": lambda n: _logaddexp(n, "double"),
    "abs_int32_t": lambda n: _abs(n, "int32_t"),
    "abs_int64_t": lambda n: _abs(n, "int64_t"),
    "search_left": lambda n: _search(n, False),
    "search_right": lambda n: _search(n, True),
    "interp": _interp, "coin": _coin, "best": _best, "next": _next, "rest": _rest,
    "spread": _spread, "finite": _finite, "probable": _probable,
    **{
        f"{which}_{kind}": lambda n, kind=kind, sign=sign: _extreme(n, kind, sign)
        for which, sign in (("maximum", ">="), ("minimum", "<="))
        for kind in ("float", "double", "int32_t", "int64_t")
    },
}  # fmt: skip


class Helpers:
    """The functions that were asked for, in the order of asking."""

    def __init__(self, name: str) -> None:
        self.name, self.extra = name, False
        self._texts: dict[str, str] = {}
        self._extra: set[str] = set()

    def use(self, which: str) -> str:
        """Return the C name of a function; it will be written out.

        While `extra` is set it is asked for by what only the probabilities need.
        """
        name = f"{self.name}_{which}"
        if which not in self._texts:
            self._texts[which] = _MAKERS[which](name)
            self._extra.add(which)
        if not self.extra:
            self._extra.discard(which)
        return name

    @property
    def text(self) -> str:
        """All that are used."""
        parts = [
            f"#ifdef @PROBABILITIES\n{text}#endif\n" if which in self._extra else text
            for which, text in self._texts.items()
        ]
        return "\n".join(parts)
