"""Functions of the C header, each written out where a policy uses it.

Sums go in numpy's order (eight partial sums side by side, halves from 129 numbers on), so that they
have the runtime's bits: Higham, "The accuracy of floating point summation", 1993, section 3, on
pairwise sums; blocks and unrolling as documented in numpy's ``loops_utils.h``.

``@`` stands for the header's prefix, KIND for the dtype at the end of a function's name, TYPE for that in C.
"""

from __future__ import annotations

#: A dtype's C type.
TYPES = {
    "bool": "int32_t", "int32": "int32_t", "int64": "int64_t", "float32": "float", "float64": "double",
}  # fmt: skip
#: numpy's pairwise sum of terms; eight names, for which compilers find registers, where an array is slow.
_SUM = """\
static inline {total} @_{which}({given}, int n) {{
    {total} a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0, sum;
    int i = 0;
    if (n > 128) {{
        const int half = n / 2 - n / 2 % 8;
        return @_{which}({first}, half) + @_{which}({second}, n - half);
    }}
    for (; i + 8 <= n; i += 8) {{
{eight}
    }}
    sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    for (; i < n; ++i) sum += {one};
    return sum;
}}
"""
#: Of each such sum its type, parameters, term at a place @, and the arguments of either half.
_SUMS = {
    "pairwise": ("TYPE", "const TYPE *x", "x[@]", "x", "x + half"),
    "dot": ("double", "const TYPE *x, const double *w", "(double)x[@] * w[@]", "x, w",
            "x + half, w + half"),
    # Over the classes but the largest, relative to it.
    "rest": ("float", "const float *x, int best, float peak", "@ == best ? 0.0f : expf(x[@] - peak)",
             "x, best, peak", "x + half, best - half, peak"),
}  # fmt: skip
#: As numpy: NaN wins, the first of them.
_EXTREME = """\
static inline TYPE @_NAME_KIND(const TYPE *p, int n, int stride) {
    TYPE most = p[0];
    int i;
    for (i = 1; i < n; ++i) {
        const TYPE x = p[i * stride];
        most = most SIGN= x || most != most ? most : x;
    }
    return most;
}
"""
_LARGER = """\
static inline TYPE @_NAME_KIND(TYPE x, TYPE y) {
    return x SIGN= y || x != x ? x : y;
}
"""
_TEXTS = {
    "distance": """\
static inline double @_distance_KIND(const TYPE *x, const double *point, int n) {
    double total = 0.0;
    int i;
    for (i = 0; i < n; ++i) {
        const double gap = (double)x[i] - point[i];
        total += gap * gap;
    }
    return sqrt(total);
}
""",
    **{
        name: text.replace("NAME", name).replace("SIGN", sign)
        for name, text, sign in (
            ("max", _EXTREME, ">"),
            ("min", _EXTREME, "<"),
            ("maximum", _LARGER, ">"),
            ("minimum", _LARGER, "<"),
        )
    },
    "argmax": """\
static inline int @_argmax_KIND(const TYPE *p, int n, int stride) {
    int i, best = 0;
    for (i = 1; i < n; ++i) {
        const TYPE x = p[i * stride], most = p[best * stride];
        if (x > most || (x != x && most == most)) best = i;
    }
    return best;
}
""",
    "sum": """\
static inline TYPE @_sum_KIND(const TYPE *p, int n, int stride) {
    TYPE sum = 0;
    int i;
    for (i = 0; i < n; ++i) sum += p[i * stride];
    return sum;
}
""",
    "abs": "static inline TYPE @_abs_KIND(TYPE x) {\n    return x < 0 ? -x : x;\n}\n",
    "logaddexp": """\
static inline TYPE @_logaddexp_KIND(TYPE x, TYPE y) {
    const TYPE gap = x - y;
    if (x == y) return x + (TYPE)0.6931471805599453;
    if (gap > 0) return x + log1p(exp(-gap));
    return gap <= 0 ? y + log1p(exp(gap)) : gap;
}
""",
    "search": """\
/* How many of n rising edges lie below x; right: or at it. */
static inline int64_t @_search_KIND(double x, const double *edges, int n) {
    int low = 0, high = n;
    if (x != x) return n;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (edges[middle] < x) low = middle + 1; else high = middle;
    }
    return low;
}
""",
    "interp": """\
/* Straight lines between knots; level outside. */
static inline double @_interp(double x, const double *knots, const double *values, int n) {
    const int low = (int)@_search_right(x, knots, n); /* knots[low - 1] <= x < knots[low] */
    if (x != x) return x;
    if (low == 0) return values[0];
    if (low == n || x == knots[low - 1]) return values[low - 1];
    return (values[low] - values[low - 1]) / (knots[low] - knots[low - 1]) * (x - knots[low - 1])
        + values[low - 1];
}
""",
    "coin": """\
/* A number in [0, 1) by the sample's number: SplitMix64's finaliser. */
static inline double @_coin(int64_t sample, uint64_t key) {
    uint64_t z = ((uint64_t)sample + 1u) * UINT64_C(0x9E3779B97F4A7C15) + key;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z = z ^ (z >> 31);
    return (double)(z >> 40) * 5.9604644775390625e-08;
}
""",
    "best": """\
/* The largest, the first of equals; -1 where it is not finite or one is NaN. */
static inline int @_best(const float *x, int n) {
    int i, best = 0, nan = x[0] != x[0];
    for (i = 1; i < n; ++i) {
        nan |= x[i] != x[i];
        if (x[i] > x[best]) best = i;
    }
    return nan || !(fabsf(x[best]) <= FLT_MAX) ? -1 : best;
}
""",
    "next": """\
/* The following ranks by difference to the largest; class -1 where none is left. */
static inline void @_next(const float *x, int n, int best, float peak, int ranks, float *gaps, int32_t *classes) {
    int i, rank;
    for (rank = 0; rank < ranks; ++rank) {
        gaps[rank] = -INFINITY;
        classes[rank] = -1;
    }
    for (i = 0; i < n; ++i) {
        const float gap = x[i] - peak;
        if (i == best || !(gap > gaps[ranks - 1])) continue;
        for (rank = ranks - 1; rank > 0 && gap > gaps[rank - 1]; --rank) {
            gaps[rank] = gaps[rank - 1];
            classes[rank] = classes[rank - 1];
        }
        gaps[rank] = gap;
        classes[rank] = i;
    }
}
""",
    "spread": """\
/* As rest, and that of the same times the difference, in one go: sums[0], sums[1]. */
static inline void @_spread(const float *x, int best, float peak, int n, float *sums) {
    float rest[8] = {0}, spread[8] = {0};
    int i = 0, j;
    if (n > 128) {
        const int half = n / 2 - n / 2 % 8;
        float more[2];
        @_spread(x, best, peak, half, sums);
        @_spread(x + half, best - half, peak, n - half, more);
        sums[0] += more[0];
        sums[1] += more[1];
        return;
    }
    for (; i + 8 <= n; i += 8)
        for (j = 0; j < 8; ++j) {
            const float gap = x[i + j] - peak, part = expf(gap);
            if (i + j == best || !(part > 0.0f)) continue; /* a class that cannot be counts as 0 */
            rest[j] += part;
            spread[j] += part * gap;
        }
    sums[0] = ((rest[0] + rest[1]) + (rest[2] + rest[3])) + ((rest[4] + rest[5]) + (rest[6] + rest[7]));
    sums[1] = ((spread[0] + spread[1]) + (spread[2] + spread[3]))
        + ((spread[4] + spread[5]) + (spread[6] + spread[7]));
    for (; i < n; ++i) {
        const float gap = x[i] - peak, part = expf(gap);
        if (i == best || !(part > 0.0f)) continue;
        sums[0] += part;
        sums[1] += part * gap;
    }
}
""",
    "finite": """\
/* Whether all are finite. */
static inline int @_finite(const float *x, int n) {
    int i, good = 1;
    for (i = 0; i < n; ++i) good &= fabsf(x[i]) <= FLT_MAX;
    return good;
}
""",
    "within": """\
/* Whether all are from low to high. */
static inline int @_within(const float *x, int n, float low, float high) {
    int i, good = 1;
    for (i = 0; i < n; ++i) good &= x[i] >= low && x[i] <= high;
    return good;
}
""",
    "probable": """\
/* Whether these are probabilities that sum to 1. */
static inline int @_probable(const float *x, int n) {
    double sum = 0.0;
    int i, good = 1;
    for (i = 0; i < n; ++i) {
        good &= x[i] >= 0.0f;
        sum += (double)x[i];
    }
    return good && fabs(sum - 1.0) <= 0.02;
}
""",
}


def function(which: str) -> str:
    """Return the text of a function by its name without the prefix."""
    name, _, kind = which.partition("_")
    if name in _SUMS:
        total, given, term, first, second = _SUMS[name]
        terms = [term.replace("@", f"i + {j}" if j else "i") for j in range(8)]
        eight = "\n".join(f"        {n} += {t};" for n, t in zip("abcdefgh", terms, strict=True))
        text = _SUM.format(which=which, total=total, given=given, first=first, second=second,
                           eight=eight, one=terms[0])  # fmt: skip
    else:
        text = _TEXTS[name]
    if kind in ("bool", "int32", "int64"):  # of which compilers warn
        for nan in (" || (x != x && most == most)", " || most != most", " || x != x"):
            text = text.replace(nan, "")
    elif which == "logaddexp_float32":
        text = text.replace("log1p(exp(", "log1pf(expf(")
    elif which == "search_right":
        text = text.replace("edges[middle] < x", "edges[middle] <= x")
    elif kind == "float64":
        text = text.replace("(double)x[", "x[")
    return text.replace("KIND", kind).replace("TYPE", TYPES.get(kind, ""))
