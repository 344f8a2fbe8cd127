"""WordNet: definitions of nouns with their category, as rows of hashed words."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

DEFAULT_FILE = Path("/usr/share/wordnet/data.noun")
"""Where the Debian package wordnet-base puts the nouns."""

#: Lexicographer files, by the number that WordNet's manual page lexnames(5) gives them.
_FILES = """Tops act animal artifact attribute body cognition communication event feeling food group location motive
    object person phenomenon plant possession process quantity relation shape state substance time"""
NAMES = dict(enumerate(_FILES.split(), start=3))
#: A category is a class if so many definitions have it.
LEAST = 2000
#: Words of a definition that are read, and what words are hashed to; 0 is padding, 1 stands first.
LENGTH, BUCKETS = 16, 16384
SPLIT_SEED = 20171
ROWS = {"fit": 5000, "recipe": 2500, "test": 7500}
"""Held out from training, drawn at random; the rest is trained on. `recipe` chose how to train, and is not exported."""

_WORDS = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_HELP = "Install the data with `apt-get install wordnet-base`, or name its data.noun with --data."


class DataError(Exception):
    """The data set is missing or is not what its file claims."""


@dataclass(frozen=True)
class Split:
    """Words (n, LENGTH + 1), with their labels, (n,)."""

    words: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, rows: int) -> Split:
        """Return the first `rows` rows."""
        return Split(self.words[:rows], self.labels[:rows])


def read(file: Path) -> list[tuple[str, int]]:
    """Return definitions, without their examples, and lexicographer files; a definition once."""
    try:
        lines = file.read_text("latin-1").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}. {_HELP}") from error
    found: dict[str, int] = {}
    for line in lines:
        if line.startswith("  "):  # the licence
            continue
        head, bar, gloss = line.partition(" | ")
        fields = head.split()
        if not bar or len(fields) < 4 or fields[2] != "n" or int(fields[1]) not in NAMES:
            raise DataError(f"{file}: not a line of WordNet's nouns: {line[:60]!r}. {_HELP}")
        found.setdefault(gloss.partition('; "')[0].strip(), int(fields[1]))
    return list(found.items())


def encode(text: str) -> list[int]:
    """Return hashed words, (LENGTH + 1,), behind the mark that stands first."""
    words = _WORDS.findall(text.lower())[:LENGTH]
    ids = [1, *(2 + zlib.crc32(word.encode()) % (BUCKETS - 2) for word in words)]
    return ids + [0] * (LENGTH + 1 - len(ids))


def load_splits(file: Path, least: int = LEAST) -> tuple[dict[str, Split], list[str]]:
    """Return the splits ``train``, ``fit``, ``recipe`` and ``test``, and the names of the classes."""
    rows = read(file)
    counts = Counter(category for _, category in rows)
    classes = [category for category, count in sorted(counts.items()) if count >= least]
    rows = [row for row in rows if row[1] in classes]
    words = np.array([encode(text) for text, _ in rows], dtype=np.int64)
    labels = np.array([classes.index(category) for _, category in rows], dtype=np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    parts = np.split(order, np.cumsum(list(ROWS.values())))
    splits = {
        name: Split(words[part], labels[part])
        for name, part in zip((*ROWS, "train"), parts, strict=True)
    }
    if not len(splits["train"]):
        raise DataError(f"{file}: {len(labels):,} definitions are too few. {_HELP}")
    return splits, [NAMES[category] for category in classes]
