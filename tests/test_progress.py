"""One bar for long work, nothing for quick work, a line in logs; who wants to hear of it himself does."""

import io
import sys
import threading
import time

import numpy as np
import pytest
from synthetic import cache
from tqdm.std import tqdm

import policyopt as po
from policyopt import _progress
from policyopt._cli import output
from policyopt._progress import report, stage, teller, working


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Gives a terminal in which bars come at once; afterwards none is left."""
    monkeypatch.setattr(_progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(_progress, "_TICK", 0.01)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)

    def started():  # in the test: pytest has a standard error of its own for each phase
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    yield started
    assert not [t for t in threading.enumerate() if t.name == "progress"] and not tqdm._instances
    assert not _progress._ONE_BAR.locked()


def shows(terminal, *words):
    """Wait until a bar shows the words."""
    late = time.monotonic() + 20
    while not all(word in terminal.getvalue() for word in words):
        assert time.monotonic() < late, terminal.getvalue()
        time.sleep(0.005)


def test_a_listener_hears_of_every_kind_of_work(tmp_path):
    data, heard = cache(400), {}
    np.savez(tmp_path / "a.npz", logits=np.zeros((2, 50, 3)), labels=np.arange(50) % 3)
    works = {
        "fit": lambda: po.fit(data, "50%"),
        "curve": lambda: po.curve(data, "max_prob,margin", "50%"),
        "fit_family": lambda: po.fit_family(data, 3, "max_prob"),
        "tune": lambda: po.tune(data, "max_prob", trials=2, folds=2),
        "study": lambda: po.study({"a": data, "b": cache(300)}, "50%", "max_prob", join=False),
        "certify": lambda: po.certify(data, "drop<=50%", method="max_prob"),
        "simulate": lambda: po.simulate(data, "ucb1", rounds=50, repetitions=2),
        "import": lambda: po.import_sources(tmp_path / "a.npz", tmp_path / "c", costs="1,2"),
        "open": lambda: po.open_cache(tmp_path / "c"),
        "evaluate": lambda: po.evaluate(fitted, data),
    }
    fitted = po.fit(data, "50%", "max_prob")
    for name, work in works.items():
        told = heard[name] = []
        with po.progress(lambda *one, told=told: told.append(one)):
            work()
            with po.progress(None):
                po.evaluate(fitted, data)
        assert told and all(0 <= done <= total for done, total, _ in told), name
    assert {"reading the outputs", "comparing policies"} <= {what for *_, what in heard["fit"]}
    # What is done in a step is told beside it, and moves no bar.
    moved = [
        (done, total) for done, total, what in heard["curve"] if what[:6] in ("max_pr", "margin")
    ]
    assert moved == sorted(moved) and {total for _, total in moved} == {2}
    assert any(what.startswith("margin: cross-validating the fit ") for *_, what in heard["curve"])
    assert [one[:2] for one in heard["study"] if one[1] == 2][-2:] == [(1, 2), (2, 2)]


def test_what_a_listener_raises_ends_the_work():
    def stop(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), po.progress(stop):
        po.fit(cache(200), "50%")
    assert teller() is _progress._nobody


def test_a_terminal_shows_one_bar_and_wipes_it(terminal, monkeypatch):
    terminal = terminal()
    with working("outer"), working("inner", output.complain), stage(3, 4, "third"):
        report(1, 2, "part\x1b[2J")
        shows(terminal, "outer, third: part", "50 %:  75%|")
    said = terminal.getvalue()
    assert "inner" not in said and "\x1b[2J" not in said
    assert said.endswith("\r") and not said.split("\r")[-2].strip()  # wiped
    with working("next"):
        report(5, 10, "rows")
        shows(terminal, "next, rows:  50%|")
        report(1, 3, "folds")  # another part of the work: the bar begins anew
        shows(terminal, "next, folds:  33%|")


def test_quick_work_draws_nothing_and_scripts_are_silent(terminal, monkeypatch):
    terminal = terminal()
    monkeypatch.setattr(_progress, "_PATIENCE", 30.0)
    started = time.monotonic()
    po.fit(cache(200), "50%", "max_prob")
    assert terminal.getvalue() == "" and time.monotonic() - started < 20
    monkeypatch.setattr(_progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", script := io.StringIO())
    po.fit(cache(200), "50%", "max_prob")
    assert script.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)  # pythonw has none
    po.fit(cache(200), "50%", "max_prob")


def test_without_tqdm_or_after_turning_it_off_nothing_is_drawn(terminal, monkeypatch):
    terminal = terminal()
    monkeypatch.setattr(_progress, "find_spec", lambda name: None)
    with working("fitting"):
        report(1, 2, "")
        time.sleep(0.05)
    assert terminal.getvalue() == ""


def test_logs_of_the_command_line_get_one_line(terminal, monkeypatch):
    terminal = terminal()
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with output.progress("fitting"):
        for i in range(3):
            report(i, 3, "")
            time.sleep(0.03)
    assert log.getvalue() == "fitting ...\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_closes_the_bar(terminal, error):
    terminal = terminal()
    with pytest.raises(error), working("fitting"):
        report(1, 2, "")
        shows(terminal, "fitting")
        raise error
    assert not terminal.getvalue().split("\r")[-2].strip()


def test_a_stream_that_closes_does_not_stop_the_work(terminal):
    terminal = terminal()
    with working("fitting"):
        shows(terminal, "fitting")
        terminal.close()
        time.sleep(0.05)


def test_threads_draw_one_bar_between_them(terminal):
    """The second has none; threads of a work tell its bar."""
    terminal = terminal()
    meet, tells = threading.Barrier(2), []

    def work(name):
        with working(name):
            tells.append(teller())
            meet.wait(20)
            meet.wait(20)

    both = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in both:
        thread.start()
    late = time.monotonic() + 20
    while "|" not in terminal.getvalue() and time.monotonic() < late:
        time.sleep(0.005)
    for thread in both:
        thread.join()
    assert sum(name in terminal.getvalue() for name in ("one:", "two:")) == 1
    assert sum(tell is _progress._nobody for tell in tells) == 1
    with working("pass"):
        tell = teller()
        thread = threading.Thread(target=lambda: tell(1, 4, "rows"))
        thread.start()
        shows(terminal, "pass, rows:  25%|")
        thread.join()


def test_the_command_line_draws_by_the_same(terminal, tmp_path, monkeypatch):
    terminal = terminal()
    from policyopt._cli.app import main

    np.savez(tmp_path / "a.npz", logits=np.random.default_rng(0).normal(size=(2, 200, 3)), labels=np.arange(200) % 3)  # fmt: skip
    words = ["import", tmp_path / "a.npz", "--out", tmp_path / "c", "--costs", "1,2"]
    monkeypatch.setattr(sys, "argv", ["policyopt", *map(str, words)])
    seen = []
    monkeypatch.setattr(_progress, "_draw", lambda title, *_: seen.append(title))
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and "importing" in seen
