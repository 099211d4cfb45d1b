"""The README and the pages of docs/: their blocks run, their commands are understood, what they name is there."""

from __future__ import annotations

import doctest
import re
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import SkipTest
from unittest.mock import patch
from urllib.parse import urlsplit

import commands
import pytest
import torch
from pages import PATHS, ROOT, Page, line_of

import mcl_triton

COMMAND = re.compile(r"(make|pip|torchrun|(\S*/)?python3? -m) ")
LANGUAGES = {"python", "bash", "text"}

every_page = pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.fixture
def sybil() -> Any:
    """Run the Python blocks of a page; without the package sybil the test is skipped."""
    module = pytest.importorskip("sybil", reason="needs the package sybil: no Python block of this page was run")
    parsers = pytest.importorskip("sybil.parsers.markdown")
    return module.Sybil(parsers=[parsers.PythonCodeBlockParser(), parsers.SkipParser()])


@every_page
def test_every_block_has_a_language_that_says_how_it_is_checked(path: Path) -> None:
    assert [(line_of(block), block.info) for block in Page(path).blocks if block.info not in LANGUAGES] == []


@pytest.mark.parametrize(
    "path", [path for path in PATHS if "```python" in path.read_text()], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_python_blocks_of_a_page_run_in_order_and_print_what_stands_below_them(path: Path, sybil: Any) -> None:
    torch.manual_seed(0)  # what fails once fails again
    outputs = Page(path).outputs
    skipped = []
    try:
        for example in sybil.parse(path).examples():
            with redirect_stdout(StringIO()) as printed:
                try:
                    example.evaluate()
                except SkipTest as reason:
                    skipped.append(f"line {example.line}: {reason}")
                    continue
            if example.line in outputs:
                assert printed.getvalue() == outputs[example.line], f"line {example.line}"
    finally:
        patch.stopall()  # what an invisible block has patched
    if skipped:
        pytest.skip("; ".join(skipped))


@every_page
def test_every_command_is_understood(path: Path) -> None:
    page = Page(path)
    shell = "\n".join(block.content for block in page.blocks if block.info == "bash").replace("\\\n", " ")
    for command in [*shell.splitlines(), *(code for code in page.code if COMMAND.match(code))]:
        commands.check(command)


@every_page
def test_every_link_resolves(path: Path) -> None:
    """A file that is there, and a heading in it; the form of an address elsewhere, as tests need no network."""
    for link in Page(path).links:
        address = urlsplit(link)
        if address.scheme:
            assert address.scheme == "https", link
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", address.netloc), link
            continue
        target = (path.parent / address.path).resolve() if address.path else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if address.fragment and address.fragment not in ("only-light", "only-dark"):  # pictures of a theme
            assert address.fragment in Page(target).anchors(), link


@every_page
def test_every_file_that_is_named_is_there(path: Path) -> None:
    named = [code for code in Page(path).code if re.match(r"(bench|docs|mcl_triton|reference|tests)/\S*$", code)]
    missing = [name for name in named if not list(ROOT.glob(name.partition("::")[0].rstrip("/")))]
    assert missing == []


def test_the_quick_start_has_ten_lines_at_most_and_ends_in_a_gradient(sybil: Any) -> None:
    document = sybil.parse(ROOT / "README.md")
    quick_start = next(iter(document.examples()))
    assert len([line for line in quick_start.parsed.splitlines() if line.strip()]) <= 10
    quick_start.evaluate()
    assert document.namespace["features"].grad.isfinite().all()


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)", text, flags=re.MULTILINE))


def test_the_api_page_has_every_public_name_once() -> None:
    shown = re.findall(r"^::: mcl_triton\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(shown) == sorted(mcl_triton.__all__)


@pytest.mark.parametrize("name", ["groups", "loss"])
def test_the_examples_of_the_docstrings_are_right(name: str) -> None:
    result = doctest.testmod(import_module(f"mcl_triton.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
