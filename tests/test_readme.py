"""What the README says can be run is run, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"example{number}" for number in range(len(EXAMPLES))])
def test_example_runs_as_it_stands(example: str) -> None:
    names: dict[str, object] = {}
    exec(example, names)
    assert names["features"].grad.isfinite().all()  # type: ignore[attr-defined]


def test_there_is_a_short_quick_start() -> None:
    assert len(EXAMPLES) >= 1
    assert len([line for line in EXAMPLES[0].splitlines() if line.strip()]) <= 10


def test_every_make_target_and_file_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README) + re.findall(r"`(tests/[^`]+)`", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
