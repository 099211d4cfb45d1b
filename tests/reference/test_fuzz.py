"""Random command lines: whatever the options, a command answers in words and with an exit status."""

import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from io import StringIO
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from reference import __main__ as command_line
from reference.commands import COMMANDS
from reference.training.settings import Settings

VALUES = [
    *("", " ", "0", "1", "2", "3", "-1", "20", "1.5", "0.4", "1e400", "nan", "inf", "9" * 30, "0x10", "half", "None"),
    *("auto", "cpu", "meta", "cub", "cub-boxes", "folder", "typefaces", "small", "resnet18", "bcnn", "resnet50"),
    *("cub-resnet50", "official", "paper", "max", "mean", "word", "pretrained", "bf16", "fp16", "DEFAULT", "true"),
    *(".", "/", "/dev/null", "none.toml", "none.pt", "ξ", "\0", "--", "-", "--help=3", "a b", "{}", "[1, 2]", "%s"),
]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))


def option_names(command: str) -> list[str]:
    own = [field.name for field in fields(COMMANDS[command][0])]
    shared = [field.name for field in fields(Settings)] if "settings" in own else []
    names = [*own, *shared, "class", "nothing"]
    return [f"{dashes}{name.replace('_', '-')}" for name in names for dashes in ("--", "--no-")]


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from([*COMMANDS, "nothing", ""]))
    words = []
    for _ in range(draw(st.integers(0, 6))):
        if command in COMMANDS and draw(st.integers(0, 3)):
            words.append(draw(st.sampled_from(option_names(command))))
        values = draw(st.lists(st.sampled_from(VALUES) | st.text(max_size=4), max_size=3))
        if words and values and draw(st.booleans()) and words[-1].startswith("--"):
            words[-1] += f"={values.pop()}"
        words += values
    return [command, *words]


@given(command_lines())
@settings(max_examples=EXAMPLES)
def test_every_command_line_is_answered_in_words(arguments):
    """The commands themselves are left out: what they do with right options is tested elsewhere."""
    output = StringIO()
    with patch.object(command_line, "import_module"), redirect_stderr(output), redirect_stdout(output):
        try:
            status = command_line.main(arguments)
        except SystemExit as ended:
            status = ended.code
    assert status in (0, 2)
    assert "Traceback" not in output.getvalue()
    assert status == 0 or len(output.getvalue()) > 10
