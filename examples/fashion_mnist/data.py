"""Fashion-MNIST: reading, the splits, and distorted copies of the test set."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Bytes = npt.NDArray[np.uint8]

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""

SPLIT_SEED = 20171
FIT_ROWS = 5000
CALIBRATE_ROWS = 2500

BLUR = {"blur_mild": 0.6, "blur_medium": 1.2, "blur_ruinous": 4.0}
"""Standard deviation of the Gaussian blur, in pixels."""

NOISE = {"noise_mild": 0.05, "noise_medium": 0.15, "noise_ruinous": 0.6}
"""Standard deviation of the additive Gaussian noise; pixels lie in [0, 1]."""

STREAMS = (*BLUR, *NOISE)

# IDX: two zero bytes, the type (8: unsigned byte), the number of axes; then the axes' sizes.
_IDX_BYTE = 0x0800
_HELP = (
    "Install the data with `apt-get install dataset-fashion-mnist`, or let torchvision fetch it "
    "(pip install torchvision), or name a folder with the four .gz files with --data."
)


class DataError(Exception):
    """The data set is missing or is not what its files claim."""


@dataclass(frozen=True)
class Split:
    """Grey images (n, 28, 28) with their labels 0..9, (n,)."""

    images: Bytes
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, rows: int | None) -> Split:
        """Return the first `rows` rows, or all of them for None."""
        return Split(self.images[:rows], self.labels[:rows])


def read_idx(path: Path, shape: tuple[int, ...]) -> Bytes:
    """Read a gzipped idx file of bytes, checked against the shape it must have."""
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    header = struct.pack(f">I{len(shape)}I", _IDX_BYTE | len(shape), *shape)
    if raw[: len(header)] != header:
        raise DataError(f"{path}: not an idx file of unsigned bytes of shape {shape}")
    if len(raw) != len(header) + int(np.prod(shape)):
        raise DataError(f"{path}: {len(raw)} bytes do not fill the shape {shape}")
    # A copy: torch wants memory it may write to, and `raw` is read-only.
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape).copy()


def _read_part(folder: Path, part: str, rows: int) -> Split:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", (rows, 28, 28))
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (rows,))
    if labels.max() > 9:
        raise DataError(f"{folder}: a label of {part} is {labels.max()}, above 9")
    return Split(images, labels.astype(np.int64))


def locate(folder: Path) -> Path:
    """Return a folder with the gzipped files, fetching them with torchvision if need be."""
    if (folder / "train-images-idx3-ubyte.gz").is_file():
        return folder
    try:
        from torchvision.datasets import FashionMNIST
    except ImportError as error:
        raise DataError(f"Fashion-MNIST is not in {folder}. {_HELP}") from error
    root = Path.home() / ".cache" / "policyopt"
    try:
        FashionMNIST(str(root), download=True)
    except Exception as error:  # torchvision passes on whatever its download met
        raise DataError(f"torchvision could not fetch Fashion-MNIST: {error}. {_HELP}") from error
    return root / "FashionMNIST" / "raw"


def load_official(folder: Path) -> tuple[Split, Split]:
    """Return the official training and test rows."""
    place = locate(folder)
    return _read_part(place, "train", 60_000), _read_part(place, "t10k", 10_000)


def load_splits(folder: Path) -> dict[str, Split]:
    """Return the splits ``train``, ``fit``, ``calibrate`` and ``test``.

    `fit` and `calibrate` are rows of the official training set that the network never
    sees: exit thresholds fitted on rows it was trained on would trust it too much.
    """
    official, test = load_official(folder)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(official))
    edges = np.cumsum([FIT_ROWS, CALIBRATE_ROWS])
    splits: dict[str, Split] = {}
    for name, rows in zip(("fit", "calibrate", "train"), np.split(order, edges), strict=True):
        splits[name] = Split(official.images[rows], official.labels[rows])
    splits["test"] = test
    return splits


def distort(clean: Split, stream: str) -> Split:
    """Return a distorted copy of a split; the labels stay.

    The result is rounded back to bytes, as a camera or an image file would.
    """
    pixels = clean.images.astype(np.float32) / 255
    if stream in BLUR:
        pixels = gaussian_filter(pixels, sigma=(0, BLUR[stream], BLUR[stream]))
    else:
        # A seed per stream, so that a stream does not depend on which others were made.
        rng = np.random.default_rng((SPLIT_SEED, STREAMS.index(stream)))
        pixels = pixels + NOISE[stream] * rng.standard_normal(pixels.shape, dtype=np.float32)
    scaled = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return Split(scaled, clean.labels)


def strengths() -> Mapping[str, float]:
    """Return the standard deviation behind every distorted stream."""
    return {**BLUR, **NOISE}
