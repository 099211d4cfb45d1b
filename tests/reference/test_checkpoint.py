"""Checkpoints and the folder of a run: broken contents, a full disk, two processes, killed processes."""

import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
import torch
from small_run import OPTIONS, SETTINGS, small_data, small_network, untrained_checkpoint, write_images

from reference.__main__ import main
from reference.training import checkpoint
from reference.training.run_folder import locked, write_whole
from reference.training.trainer import train as train_network

ROOT = Path(__file__).parents[2]

_file = BytesIO()
torch.save({"weight": torch.ones(5000)}, _file)
SERIALIZED = _file.getvalue()


# Broken contents


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The content of a checkpoint after two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    train_network(small_network(), *small_data(), SETTINGS, folder, progress=False)
    return torch.load(folder / "checkpoint.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no checkpoint"),
        (b"no checkpoint", "cannot be read as a checkpoint"),
        (SERIALIZED[: len(SERIALIZED) // 2], "cannot be read as a checkpoint"),
        ({"weight": torch.ones(2)}, "must be a checkpoint of this version"),
        (torch.ones(2), "must be a checkpoint of this version"),
    ],
    ids=["missing", "broken", "cut short", "state_dict", "tensor"],
)
def test_what_is_no_checkpoint(content, message, tmp_path):
    path = tmp_path / "checkpoint.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        checkpoint.load(path)


MISSING = object()

OF_OTHER_VERSIONS = [
    # entry, value, message
    ("settings", MISSING, "it must have settings, num_images, "),
    ("optimizer", MISSING, "it must have settings, num_images, "),
    ("settings", None, "must be a mapping"),
    ("settings", {"gone": 1}, "unexpected keyword argument 'gone'"),
    ("settings", {"epochs": 0}, "epochs must be at least 1; got 0"),
    ("settings", {"epochs": "2"}, "epochs must be a whole number; got '2'"),
    ("rows", None, "not iterable"),
    ("rows", [{"epoch": 1, "accuracy": 0.5}], "its rows must have epoch, step, .*; got epoch, accuracy"),
    ("classes", 3, "its classes must be a list of names; got 3"),
    ("classes", None, "its classes must be a list of names; got None"),
    ("classes", [], r"its classes must be a list of names; got \[\]"),
    ("num_images", None, "its num_images must be a whole number; got None"),
    ("step", "x", "its step must be a whole number from 0 to 8; got 'x'"),
    ("step", -5, "its step must be a whole number from 0 to 8; got -5"),
    ("step", 9, "its step must be a whole number from 0 to 8; got 9"),
    ("step", 10**9, "its step must be a whole number from 0 to 8; got 1000000000"),
]


@pytest.mark.parametrize(("entry", "value", "message"), OF_OTHER_VERSIONS)
def test_checkpoints_of_other_versions(entry, value, message, trained, tmp_path):
    with pytest.raises(ValueError, match=f"checkpoint.pt must be a checkpoint of this version .*: .*{message}"):
        checkpoint.load(changed(trained, entry, value, tmp_path))


@pytest.mark.parametrize(
    ("entry", "value"),
    [("network", {}), ("classes", ["bird 0", "bird 1"]), ("settings", {"channels_per_class": 3})],
    ids=["empty network", "fewer classes", "other settings"],
)
def test_networks_that_do_not_fit(entry, value, trained, tmp_path):
    path = changed(trained, entry, value, tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint.pt: its network does not fit its settings and classes: .*in"):
        checkpoint.load_network(path)


def test_no_network(trained, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint.pt: its network does not fit its settings and classes: .*None"):
        checkpoint.load_network(changed(trained, "network", None, tmp_path))


def half(state):
    """An optimiser's state of half the parameters."""
    return {**state, "state": dict(list(state["state"].items())[::2])}


def other_momentum(state):
    return {**state, "param_groups": [{**group, "momentum": 0.5} for group in state["param_groups"]]}


@pytest.mark.parametrize(
    "change",
    [lambda _: {}, half, other_momentum, lambda state: {**state, "state": {}}],
    ids=["empty", "half", "another momentum", "without momenta"],
)
def test_optimizers_that_do_not_fit(change, trained, tmp_path):
    changed(trained, "optimizer", change(trained["optimizer"]), tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint.pt: its optimizer does not fit its settings and"):
        train_network(small_network(), *small_data(), SETTINGS, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("command", ["validate", "predict", "explain", "resume"])
def test_every_command_answers_in_words(command, trained, tmp_path, capsys):
    path = str(changed(trained, "rows", None, tmp_path))
    run = {
        "validate": lambda: main(["validate", path]),
        "predict": lambda: main(["predict", "some.jpg", "--checkpoint", path]),
        "explain": lambda: main(["explain", "some.jpg", "--checkpoint", path]),
        "resume": lambda: main(["resume", str(tmp_path)]),
    }
    assert run[command]() == 1
    assert "error: " + path + " must be a checkpoint of this version" in capsys.readouterr().err


def changed(content, entry, value, folder):
    """Write a checkpoint with another value of one entry; settings are changed one by one."""
    if entry == "settings" and isinstance(value, dict):
        value = content["settings"] | value
    content = {**content, entry: value}
    path = folder / "checkpoint.pt"
    torch.save({name: each for name, each in content.items() if each is not MISSING}, path)
    return path


# A full disk


@contextmanager
def largest_file(size):
    """No file grows beyond ``size`` bytes, as with ``ulimit -f``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    untrained_checkpoint(path)
    before = path.read_bytes()
    message = re.escape(f"{path} cannot be written: File too large. Make room there; the previous one is kept.")
    with largest_file(100_000), pytest.raises(OSError, match=message):
        untrained_checkpoint(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_ends_training_in_words(tmp_path, capsys):
    options = [*OPTIONS, "--data", str(write_images(tmp_path / "images")), "--folder", str(tmp_path / "run")]
    with largest_file(100_000):
        assert main(["train", *options]) == 1
    assert f"error: {tmp_path / 'run' / 'checkpoint.pt'} cannot be written: File too large" in capsys.readouterr().err


def test_other_errors_of_writing_stay_what_they_are(tmp_path):
    def fail(file):
        raise RuntimeError("no storage")

    with pytest.raises(RuntimeError, match="no storage"):
        write_whole(tmp_path / "file", fail)
    assert not list(tmp_path.iterdir())


# Several processes, and killed ones


def test_two_processes_do_not_share_a_folder(tmp_path):
    waiting = "import sys; from pathlib import Path; from reference.training.run_folder import locked\n"
    waiting += f"with locked(Path({str(tmp_path)!r})): print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        (sys.executable, "-c", waiting), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        untrained_checkpoint(tmp_path / "checkpoint.pt")
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"another process trains in {tmp_path}"):
                train_network(small_network(), *small_data(), SETTINGS, tmp_path, resume=resume, progress=False)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with locked(tmp_path):
            pass
    finally:
        other.kill()


def test_unfinished_files_of_killed_processes_are_removed(tmp_path):
    for name in ("checkpoint.pt.tmp", "best.pt.tmp", "checkpoint.pt"):
        (tmp_path / name).write_bytes(b"half")
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoint.pt"}


def test_a_new_run_does_not_overwrite_another(trained, tmp_path):
    path = changed(trained, "step", 8, tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{tmp_path} has a run: resume it by `python -m reference resume {tmp_path}`"):
        train_network(small_network(), *small_data(), SETTINGS, tmp_path, progress=False)
    assert path.read_bytes() == before
