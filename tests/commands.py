"""Check that a command on a page would be understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from argparse import ArgumentParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from torch.distributed.run import get_args_parser

from reference.commands import parse

ROOT = Path(__file__).parent.parent
OURS = ("bench", "reference")


def check(command: str) -> None:
    """Raise an AssertionError for a command line that would fail at its first look at its arguments."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    match words:
        case []:
            pass
        case ["make", *arguments]:
            _check_make(arguments)
        case ["torchrun", *arguments]:
            launched = get_args_parser().parse_args(arguments)
            assert launched.module, command
            _check_module(launched.training_script, launched.training_script_args)
        case ["pip", *arguments] | [_, "-m", "pip", *arguments]:
            _check_pip(arguments)
        case ["pytest", *arguments] | [_, "-m", "pytest", *arguments]:
            _check_pytest(arguments)
        case [_, "-m", module, *arguments]:
            _check_module(module, arguments)
        case [".venv/bin/pre-commit", "install"]:
            pass
        case [program, *_] if (ROOT / program).is_file():
            pass
        case _:
            raise AssertionError(f"nobody knows whether this is right: {command}")


def _check_make(arguments: list[str]) -> None:
    """Make knows the target, and what it runs of ours takes the arguments."""
    for line in made_by(arguments):
        check(line)


def made_by(arguments: list[str]) -> list[str]:
    """The commands of ours that make runs."""
    # A make that runs the tests passes its own variables on.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    dry_run = ["make", "--dry-run", *arguments]
    made = subprocess.run(dry_run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    ours = re.compile(rf"\S*(python -m (pytest|{'|'.join(OURS)})|pre-commit)\b")
    return [line for line in made.stdout.splitlines() if ours.match(line)]


class _Parsed(Exception):
    """The arguments are right."""


def _check_module(module: str, arguments: list[str]) -> None:
    """The parser of the module's ``main`` takes the arguments, if there are any; what follows it is not run."""
    assert module.partition(".")[0] in OURS, f"{module} is none of ours"
    assert find_spec(module), module
    if not arguments:
        return
    really_parse = ArgumentParser.parse_args

    def parse_and_stop(parser: ArgumentParser, *given: Any) -> NoReturn:
        really_parse(parser, *given)
        raise _Parsed

    with patch.object(ArgumentParser, "parse_args", parse_and_stop):
        try:
            if module == "reference":
                parse(arguments[0], arguments[1:])
                status = 0
            else:
                status = import_module(module if "." in module else f"{module}.__main__").main(arguments)
        except _Parsed:
            status = 0
        except SystemExit as ended:  # 0 after --help
            status = ended.code
    assert status == 0, f"{module} does not take {shlex.join(arguments)}"


def _check_pytest(arguments: list[str]) -> None:
    """The files and tests that it is given are there."""
    for word in arguments:
        path, _, name = word.partition("::")
        if path.endswith((".py", "/")):
            assert (ROOT / path).exists(), word
            assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text() or not name, word


def _check_pip(arguments: list[str]) -> None:
    """It installs the clone, with groups that there are, or a package that the pages speak of."""
    groups = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    command, *named = arguments
    assert command == "install"
    while "--group" in named:
        at = named.index("--group")
        assert named[at + 1] in groups, named
        del named[at : at + 2]
    for name in (word for word in named if not word.startswith("-")):
        package = re.split(r"[<>=\[]", name)[0]
        assert package in (".", "pip", "torch", "triton", "timm", "lightning", "pylocron", "mcl-triton"), name
