"""Worker processes: the same results as one process, in any number; a failure is passed on and leaves no process."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from ngbench.errors import TrainingError
from ngbench.zoo import executor
from ngbench.zoo.executor import default_num_workers, run_parts


def square(part, progress):
    progress(1, 2, "half")
    progress(2, 2)
    return part * part, os.getpid()


def fail(part, progress):
    raise TrainingError(f"part {part} failed")


def ignored(number, done, text):
    pass


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_part_is_done_once(num_workers):
    results = dict(run_parts(square, {5: 3, 2: 7, 9: 1}, num_workers=num_workers, report=ignored))
    assert {number: value for number, (value, _) in results.items()} == {5: 9, 2: 49, 9: 1}
    elsewhere = {pid != os.getpid() for _, pid in results.values()}
    assert elsewhere == {num_workers > 1}


def test_progress_comes_with_the_number_of_the_part():
    seen = []
    list(run_parts(square, {4: 2, 6: 3}, num_workers=1, report=lambda *args: seen.append(args)))
    assert seen == [(4, 1, "half"), (4, 2, ""), (6, 1, "half"), (6, 2, "")]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_part_is_raised_here_and_no_worker_stays(num_workers):
    with pytest.raises(TrainingError, match="part 3 failed|part 7 failed"):
        list(run_parts(fail, {0: 3, 1: 7}, num_workers=num_workers, report=ignored))
    # the pool's own thread collects the ended workers too, and may be about to
    deadline = time.monotonic() + 60
    while (left := multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, [Path(f"/proc/{process.pid}/status").read_text() for process in left]


def stay(part, progress):
    time.sleep(600 if part else 0)
    raise TrainingError(f"part {part} failed")


@pytest.mark.slow
def test_a_worker_in_the_middle_of_a_part_does_not_go_on():
    start = time.monotonic()
    with pytest.raises(TrainingError, match="part 0 failed"):
        list(run_parts(stay, {0: 0, 1: 1}, num_workers=2, report=ignored))
    assert time.monotonic() - start < 300


def test_a_worker_that_does_not_end_when_it_is_asked_is_killed(monkeypatch):
    monkeypatch.setattr(executor, "_GRACE_S", 0.2)
    context = multiprocessing.get_context("spawn")
    is_deaf = context.Event()
    deaf = context.Process(target=_sleep_deaf, args=(is_deaf,))
    deaf.start()
    assert is_deaf.wait(120)
    executor._stop([deaf])
    # the time of grace bounds the wait for the killed process too
    deaf.join(60)
    assert deaf.exitcode == -signal.SIGKILL


def _sleep_deaf(is_deaf):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_deaf.set()
    time.sleep(600)


def die(part, progress):
    os._exit(9)


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match="one of 2 worker processes ended without a result.*fewer workers"):
        list(run_parts(die, {0: 3, 1: 7}, num_workers=2, report=ignored))


def test_there_is_at_least_one_worker():
    assert default_num_workers() >= 1
