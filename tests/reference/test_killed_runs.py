"""Runs that are killed by SIGKILL, which no process can handle, and resumed: nothing is lost, nothing mixed."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from small_run import SETTINGS, small_data, small_network, without_seconds

from reference.training import checkpoint, run_folder
from reference.training.trainer import train

# Each run is a fork of a process that has PyTorch and never called backward(): after that, autograd does not fork.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["reference.training.trainer"])

# A run of two epochs writes the checkpoint at its start, and per epoch both metrics, perhaps best.pt, the checkpoint.
LAST_FILE = 9


def train_in(folder, *, resume=False, settings=SETTINGS):
    network = small_network(replace(settings, seed=99) if resume else settings)
    rows = train(network, *small_data(), settings, folder, resume=resume, progress=False)
    return network.state_dict(), without_seconds(rows)


def train_and_die(folder, number, moment, resume):
    """Train until the file of this number is about to be, or has just been, put in its place."""
    torch.set_num_threads(1)
    written, replace_file = 0, os.replace

    def replace_and_die(source, target):
        nonlocal written
        if written == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(source, target)
        if written == number:
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1

    run_folder.os.replace = replace_and_die
    train_in(folder, resume=resume)


def killed(folder, number, moment, *, resume=False):
    process = FORKS.Process(target=train_and_die, args=(folder, number, moment, resume))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return train_in(tmp_path_factory.mktemp("whole"))


def assert_whole(found, expected):
    weights, rows = found
    assert rows == expected[1]
    assert all(torch.equal(weights[name], value) for name, value in expected[0].items())


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(LAST_FILE))
def test_killed_at_a_file_and_resumed(number, moment, whole_run, tmp_path):
    if not killed(tmp_path, number, moment):
        assert number >= LAST_FILE - 1, "no epoch writes fewer than three files"
        return
    is_there = (tmp_path / "checkpoint.pt").exists()
    assert is_there == (number > 0 or moment == "after")
    assert_whole(train_in(tmp_path, resume=is_there), whole_run)
    assert not list(tmp_path.glob("*.tmp"))
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    assert without_seconds(saved.rows) == whole_run[1]


def test_killed_again_and_again(whole_run, tmp_path):
    """Each attempt but the last ends after its fourth file."""
    assert killed(tmp_path, 1, "before")
    attempts = 1
    while attempts < 9 and killed(tmp_path, 3, "after", resume=True):
        attempts += 1
        rows = without_seconds(checkpoint.load(tmp_path / "checkpoint.pt").rows)
        assert rows == whole_run[1][: len(rows)]
    assert 2 <= attempts <= 3
    assert_whole(train_in(tmp_path, resume=True), whole_run)
