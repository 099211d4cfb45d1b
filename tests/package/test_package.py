"""Versions, requirements and commands are what the code has. What is built of them is tested by `make package`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dependency_groups import resolve
from packaging.requirements import Requirement

import mcl_triton

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
GROUPS = PYPROJECT["dependency-groups"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def requirements(*groups: str) -> list[Requirement]:
    """The requirements of the package with these dependency groups."""
    return [Requirement(text) for text in (*PROJECT["dependencies"], *resolve(GROUPS, *groups))]


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, at whatever place, by their full names."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*parts, node.module] if node.module else parts)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def third_party(folder: str) -> set[str]:
    """The packages that a folder's files import, and the files of ours that they import, and so on."""
    files = list((ROOT / folder).rglob("*.py"))
    outside: set[str] = set()
    for file in files:
        for name in imports(file):
            parts = name.split(".")
            if parts[0] not in ("mcl_triton", "reference", "bench"):
                outside.add(parts[0])
                continue
            for end in range(1, len(parts) + 1):
                path = ROOT.joinpath(*parts[:end])
                for one in (path.with_suffix(".py"), path / "__init__.py"):
                    if one.is_file() and one not in files:
                        files.append(one)
    return outside - set(sys.stdlib_module_names)


def test_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\](.*?)(?=^## |\Z)", changelog, flags=re.MULTILINE | re.DOTALL)
    assert newest is not None
    assert "version" in PROJECT["dynamic"]
    assert re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE) == [mcl_triton.__version__]
    announced = re.findall(r"What will be (\d+\.\d+\.\d+)", newest[2]) if newest[1] == "Unreleased" else [newest[1]]
    assert announced == [mcl_triton.__version__]


def test_the_paper_is_cited_alike() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    title = re.findall(r'^  title: "(.+)"$', citation, flags=re.MULTILINE)
    families = re.findall(r"family-names: (.+)$", citation, flags=re.MULTILINE)
    assert len(title) == 1
    assert title[0] in readme
    assert families == ["Chang", "Ding", "Xie", "Bhunia", "Li", "Ma", "Wu", "Guo", "Song"]
    assert all(family in readme for family in families)


@pytest.mark.parametrize(
    ("folder", "groups", "optional"),
    [("mcl_triton", [], {"triton"}), ("reference", ["train"], {"triton"}), ("bench", ["bench"], {"holocron"})],
)
def test_what_is_imported_is_required(folder: str, groups: list[str], optional: set[str]) -> None:
    of_package = {"pillow": "PIL", "fonttools": "fontTools"}
    required = {of_package.get(one.name, one.name) for one in requirements(*groups)}
    named = {Requirement(text).name for group in groups for text in GROUPS[group] if isinstance(text, str)}
    own = {name for name in named if not name.startswith("fontpkg-")}  # fonts are files
    imported = third_party(folder)
    assert imported - required <= optional
    assert {of_package.get(name, name) for name in own} <= imported


def test_the_wheel_has_no_extra_for_code_that_it_lacks() -> None:
    assert "optional-dependencies" not in PROJECT
    assert set(GROUPS) == {"train", "bench", "docs", "dev"}
    names = {one.name for one in requirements("dev")}
    assert {one.name for one in requirements("train", "bench")} <= names


def test_every_requirement_has_a_lower_bound() -> None:
    for requirement in requirements(*GROUPS):
        assert {bound.operator for bound in requirement.specifier} & {">=", "=="}, requirement


def test_the_oldest_python_is_the_same_everywhere() -> None:
    oldest = min(int(minor) for minor in re.findall(r":: Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"])))
    assert PROJECT["requires-python"] == f">=3.{oldest}"
    assert re.findall(r"version_info < \(3, (\d+)\)", MAKEFILE) == [str(oldest)]
    assert f"Python 3.{oldest} or newer" in MAKEFILE


def test_help_lists_every_target() -> None:
    shown = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True)
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert {line.split()[0] for line in shown.splitlines()} == targets
    assert all(len(line.split(maxsplit=1)) == 2 for line in shown.splitlines())
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_what_commands_name_is_there() -> None:
    """The tests of `make test-fast`, and those that `make compat` leaves out."""
    compat = (ROOT / ".ci" / "compat.py").read_text(encoding="utf-8")
    left_out = re.search(r"^LEFT_OUT = (\(.+?\))$", compat, flags=re.MULTILINE | re.DOTALL)
    assert left_out is not None
    named = [f"tests/{name}.py" for name in ast.literal_eval(left_out[1])]
    named += re.findall(r"tests/[\w/]+\.py", MAKEFILE)
    assert [name for name in named if not (ROOT / name).is_file()] == []
