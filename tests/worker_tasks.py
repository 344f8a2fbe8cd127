"""Tasks that workers do: in a file of their own, which other processes can import."""

import os
import signal
import time
from pathlib import Path

import numpy as np


def square(task):
    return task * task


def long_dot(task):
    """A sum whose last digit tells how many threads added it up."""
    rng = np.random.default_rng(task)
    one, other = rng.normal(size=(2, 200_000))
    return float(one @ other)


def refuses(task):
    raise ValueError(f"task {task}")


def fails_late(task):
    time.sleep(task == 1)
    return refuses(task) if task in (1, 3) else task


class Rows:
    """Counts in which process its rows were read, and how often."""

    def __init__(self, data, folder):
        self.data, self.folder = data, folder

    def __call__(self, task):
        rows = next(iter(self.data.splits.values()))
        (Path(self.folder) / f"{os.getpid()}-{id(self)}").touch()
        return float(rows.array("outputs")[task].sum())


class Dies:
    """Ends its worker in the middle of a task: the first time only, or always."""

    def __init__(self, folder, at, always=False):
        self.folder, self.at, self.always = folder, at, always

    def __call__(self, task):
        mark = Path(self.folder) / f"died-{task}"
        if task == self.at and (self.always or not mark.exists()):
            mark.touch()
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        (Path(self.folder) / f"did-{task}-{time.monotonic_ns()}").touch()
        return task
