"""Images as a bad camera gives them: clean, blurred or noisy, several strengths of each."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from examples.fashion_mnist.data import SPLIT_SEED, Split
from policyopt.runtime._typing import Ints

KINDS = ("clean", "blur", "noise")
"""The contexts, in the order of their numbers."""

LEVELS = {"blur": (0.6, 1.0, 1.5, 2.0, 3.0), "noise": (0.05, 0.1, 0.2, 0.3, 0.5)}
"""Standard deviations: of the Gaussian blur in pixels, of the additive noise on [0, 1]."""


def distorted(split: Split, kind: str, seed: int) -> Split:
    """Return a copy of a split, every image distorted at a strength drawn for it.

    Parameters
    ----------
    split
        Clean images.
    kind
        One of `KINDS`.
    seed
        Of the strengths and the noise: another one for every use of the images.
    """
    if kind == "clean":
        return split
    rng = np.random.default_rng((SPLIT_SEED, KINDS.index(kind), seed))
    level = rng.integers(0, len(LEVELS[kind]), len(split))
    pixels = split.images.astype(np.float32) / 255
    for number, strength in enumerate(LEVELS[kind]):
        rows = level == number
        if kind == "blur":
            pixels[rows] = gaussian_filter(pixels[rows], sigma=(0, strength, strength))
        else:
            noise = rng.standard_normal(pixels[rows].shape, dtype=np.float32)
            pixels[rows] += strength * noise
    # Back to bytes, as a camera or an image file would.
    return Split(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8), split.labels)


def mixed(split: Split, seed: int) -> tuple[Split, Ints]:
    """Return a copy of a split of which a third each is clean, blurred and noisy, and which is which.

    Every image comes once: rows stay independent of each other.
    """
    kind = np.random.default_rng((SPLIT_SEED, 9, seed)).integers(0, len(KINDS), len(split))
    images = split.images.copy()
    for number, name in enumerate(KINDS):
        rows = kind == number
        part = Split(split.images[rows], split.labels[rows])
        images[rows] = distorted(part, name, seed).images
    return Split(images, split.labels), kind
