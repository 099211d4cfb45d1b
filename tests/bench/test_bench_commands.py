"""The command line of `bench`: help without a wait, and errors about options before anything is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench import __main__ as bench


@pytest.mark.parametrize("command", ["", *bench.COMMANDS])
def test_help_is_quick_since_nothing_heavy_is_imported(command: str) -> None:
    code = (
        "import sys\nfrom bench.__main__ import main\n"
        f"try: main({[*command.split(), '--help']})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'triton', 'numpy'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"usage: python -m bench {command}".strip() in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["run", "--threads", "0"], "must be at least 1; got 0"),
        (["run", "--turns", "0"], "must be at least 1; got 0"),
        (["run", "--turns", "few"], "invalid positive value: 'few'"),
        (["static", "--kernels", "--traffic"], "not allowed with argument"),
        (["host", "--turns", "-1"], "must be at least 1; got -1"),
    ],
)
def test_bad_options_are_refused_before_a_module_is_imported(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "import_module", None)
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--device", "cpu", "--cases", "nothing"], "no case's line contains any of"),
        (["static", "--cases", "nothing"], "would choose one"),
        (["static", "--traffic", "--cases", "nothing"], "float32 contiguous' would choose one"),
        (["run", "--device", "cuda"], "needs a GPU"),
        *(
            (["run", "--provider", text], "--provider must be module:function")
            for text in ("nowhere:loss", "bench.providers:nothing", "bench", ":", "bench.cases:CLASSES")
        ),
    ],
)
def test_a_command_says_why_it_cannot_run(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available() and "cuda" in arguments:
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match=message):
        bench.main(arguments)
    assert not capsys.readouterr().out
