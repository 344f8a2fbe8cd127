"""What one decision costs in C: an exported header in a loop of its own, compiled with -O2."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from policyopt._export.c_compiler import NoCompiler, compiler
from policyopt._export.c_header import c_source
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._policy import Policy

_LOOP = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
#include "p.h"
static float x[SAMPLES][P_EXITS][P_CLASSES];
static float f[SAMPLES][P_EXITS][WIDTH];
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int main(void) {
    static p_state state;
    p_decision said;
    double best = 1e9, sum = 0.0;
    FILE *in = fopen("in.bin", "rb");
    if (!in || fread(x, sizeof x, 1, in) != 1 || fread(f, sizeof f, 1, in) != 1) return 2;
    for (int round = 0; round < ROUNDS; ++round) {
        double begin = now(), spent;
        for (int again = 0; again < 20; ++again)
            for (int row = 0; row < SAMPLES; ++row) {
                p_start(&state, row);
                for (int at = 0; at < P_EXITS; ++at) {
                    if (p_step(&state, p_path(at), x[row][at] FEATURES, &said) < 0) return 3;
                    sum += said.score;
                }
            }
        spent = (now() - begin) / (20.0 * SAMPLES * P_EXITS);
        if (spent < best) best = spent;
    }
    fprintf(stderr, "%g", sum); /* so that nothing is left out */
    printf("%.6f", 1e6 * best);
    return 0;
}
"""


def c_microseconds(
    policy: Policy, samples: np.ndarray, vectors: list[np.ndarray] | None, rounds: int
) -> float | None:
    """Return the us of one step in C, the fastest of the rounds; None where no compiler is."""
    try:
        command = compiler()
    except NoCompiler:
        return None
    width = 1 if vectors is None else vectors[0].shape[1]
    points = np.zeros((len(samples), policy.exits, width), np.float32)
    if vectors is not None:
        points = np.stack([v[: len(samples)] for v in vectors], axis=1).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "p.h").write_text(c_source(policy, trace_policy(policy), "p"))
        (folder / "loop.c").write_text(_LOOP)
        (folder / "in.bin").write_bytes(samples.astype(np.float32).tobytes() + points.tobytes())
        given = [
            f"-DSAMPLES={len(samples)}", f"-DROUNDS={rounds}", f"-DWIDTH={width}",
            f"-DFEATURES={', f[row][at]' if vectors is not None else ''}",
        ]  # fmt: skip
        build = [*command, "-std=c99", "-O2", *given, "loop.c", "-o", "loop", "-lm"]
        subprocess.run(build, cwd=folder, check=True)
        ran = subprocess.run([folder / "loop"], cwd=folder, check=True, capture_output=True, text=True)  # fmt: skip
    return float(ran.stdout)
