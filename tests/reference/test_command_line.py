"""The command line of reference/: options, their mistakes, and what is loaded for them."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import OPTIONS, small_data, write_images

from reference.__main__ import main
from reference.commands import COMMANDS
from reference.training import train
from reference.training.distributed import choose_device
from reference.training.recipes import load_recipe
from reference.training.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def ctrl_c_raises():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a run that works, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return ["train", *OPTIONS, "--data", str(write_images(tmp_path / "images"))]


# Without PyTorch

LIGHT = [
    *([name, "--help"] for name in COMMANDS),
    ["--help"],
    ["recipes"],
    ["train"],
    ["train", "--dataset", "cub", "--epochs", "0"],
    ["train", "--recipe", "cub-resnet50"],
    ["predict", "--checkpoint", "x.pt"],
    ["nothing"],
]


def test_neither_help_nor_wrong_options_load_pytorch():
    """All in one process, in less than 2 seconds of its time."""
    source = (
        "import sys, time\n"
        "from reference.__main__ import main\n"
        f"for arguments in {LIGHT!r}:\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    assert 'torch' not in sys.modules, arguments\n"
        "    assert 'matplotlib' not in sys.modules, arguments\n"
        f"    assert time.process_time() < 2 * {len(LIGHT)}\n"
    )
    process = subprocess.run((sys.executable, "-c", source), cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_help_names_every_command(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(COMMANDS)


@pytest.mark.parametrize("recipe", ["", "cub-resnet50"])
def test_help_names_every_setting_and_its_default(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["train", *(["--recipe", recipe] if recipe else []), "--help"])
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name, value in vars(load_recipe(recipe) if recipe else Settings()).items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        shown = "''" if value == "" else shown
        assert re.search(rf"--{name.replace('_', '-')}[ ,].*?\(default: {re.escape(str(shown))}\)", text), name


# Mistakes in the options

WRONG = [
    # arguments, message
    ("nothing", "there is no command 'nothing', only recipes, train, "),
    ("train", "train needs --recipe NAME, one of `python -m reference recipes` or a TOML file, or --dataset NAME"),
    ("train --epochs 3", "train needs --recipe NAME"),
    ("train --recipe cub-resnet51", "there is no recipe 'cub-resnet51'; the nearest are cub-resnet50,"),
    ("train --recipe mine.toml", "there is no recipe mine.toml"),
    ("train --recipe cub-resnet18", "CUB-200-2011 needs --data FOLDER, the folder with its files"),
    ("train --dataset folder --transform from_scratch", "images needs --data"),
    ("train --dataset folder --data X --epochs 0", "epochs must be at least 1; got 0"),
    ("train --dataset folder --data X --workers -1", "workers must be at least 0; got -1"),
    ("train --dataset folder --data X --seed -1", "seed must be from 0 to below 2^63; got -1"),
    ("ablation --recipe cub-resnet50", "CUB-200-2011 needs --data"),
    ("ablation --processes 0", "processes must be at least 1; got 0"),
    ("ablation --seeds", "ablation needs one or more seeds"),
    ("predict --checkpoint x.pt", "predict needs one or more images"),
    ("explain --checkpoint x.pt", "explain needs one or more images"),
    ("regions", "regions needs one or more runs"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_values_out_of_range(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


MALFORMED = [
    ("train --dataset birds", "'birds'"),
    ("train --dataset folder --epochs x", "invalid literal for int"),
    ("train --dataset folder --weights 1", "Expected 2 values"),
    ("train --dataset folder --drop third", "no type matching"),
    ("train --dataset folder --mixed-precision float16", "float16"),
    ("train --recip cub-resnet18 --dataset cub", "Unrecognized options: --recip"),
    ("resume", "Missing from python -m reference resume"),
    ("resume runs/cub --epochs 9", "Unrecognized options: --epochs"),
    ("resume runs/cub --folder elsewhere", "--folder"),
    ("validate", "Missing from python -m reference validate"),
    ("predict bird.jpg", "--checkpoint"),
]


@pytest.mark.parametrize(("arguments", "message"), MALFORMED)
def test_malformed_and_unknown_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


# Devices


def test_no_such_device(options, tmp_path, capsys):
    message = "device must be auto or one of this machine, such as cpu or cuda:0; got 'gpu'"
    assert main([*options, "--device", "gpu"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match=r"device must be auto or one of this machine, .*; got 'meta'"):
        choose_device("meta")  # it computes nothing


def test_fewer_devices_than_processes(options, capsys, monkeypatch):
    devices = torch.accelerator.device_count()
    monkeypatch.setenv("LOCAL_RANK", str(devices))
    assert main([*options, "--device", "cuda"]) == 1
    message = f"got 'cuda', for process {devices} of those that torchrun started here. Accelerators here: {devices}."
    assert message in capsys.readouterr().err


# The folder of a run


def test_new_runs_get_new_folders(options, tmp_path, capsys):
    short = [*options, "--epochs", "1"]
    for folder in ("runs/folder", "runs/folder-2"):
        assert main([*short, "--folder", ""]) == 0
        assert f"training in {folder}\n" in capsys.readouterr().out
        assert (tmp_path / folder / "checkpoint.pt").is_file()
    (tmp_path / "mine.toml").write_text('extends = "folder-resnet18"')
    assert main([*short, "--recipe", "mine.toml"]) == 0
    assert "training in runs/mine\n" in capsys.readouterr().out


def test_wrong_options_are_found_before_a_folder_that_holds_a_run(options, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").touch()
    assert main([*options, "--folder", "run", "--epochs", "0"]) == 2
    assert "epochs must be at least 1" in capsys.readouterr().err
    assert main([*options, "--folder", "run"]) == 1
    assert "run has a run: resume it by `python -m reference resume run`." in capsys.readouterr().err


def test_a_file_for_a_folder(options, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*options, "--folder", "file"]) == 1
    assert "--folder must be a folder; got the file file." in capsys.readouterr().err
    assert main([*options, "--folder", "file/run"]) == 1
    assert re.search(r"error: .*Not a directory: 'file.run'", capsys.readouterr().err)
    assert main(["resume", "file"]) == 1
    assert "there is no checkpoint file/checkpoint.pt" in capsys.readouterr().err


def test_nothing_to_resume(tmp_path, capsys):
    assert main(["resume", str(tmp_path)]) == 1
    assert f"there is no checkpoint {tmp_path}" in capsys.readouterr().err


# Interruptions


def test_ctrl_c_prints_how_to_resume(options, tmp_path, monkeypatch, capsys):
    train_set, test_set = small_data()
    original, reads = type(train_set).__getitem__, []

    def interrupt_once(dataset, index):
        reads.append(index)
        if len(reads) == 46:
            signal.raise_signal(signal.SIGINT)
        return original(dataset, index)

    monkeypatch.setattr(type(train_set), "__getitem__", interrupt_once)
    monkeypatch.setattr(train, "load_data", lambda _: (train_set, test_set))
    assert main([*options, "--folder", "run", "--batch-size", "10", "--weights", "1", "2"]) == 130
    assert capsys.readouterr().err.endswith("\nstopped; resume it by `python -m reference resume run`\n")

    assert main(["resume", "run", "--device", "cpu"]) == 0
    assert "checkpoint and metrics are in run\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert content["settings"]["weights"] == [1.0, 2.0]
    assert [row["step"] for row in content["epochs"]] == [4, 8]


def test_ctrl_c_before_there_is_a_run(options, tmp_path, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load_data", interrupt)
    assert main(options) == 130
    assert capsys.readouterr().err == "\nstopped\n"
    assert not (tmp_path / "runs").exists()


def test_tensorboard_that_is_not_installed(options, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*options, "--tensorboard"]) == 1
    assert "pip install tensorboard" in capsys.readouterr().err
