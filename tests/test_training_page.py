"""docs/training.md says what the code says, its commands are there, and its examples run."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from reference.datasets import DATASETS
from reference.recipes import RECIPES, load_recipe

PAGES = Path(__file__).parent.parent / "docs"
TEXT = (PAGES / "training.md").read_text()
FLOWING = " ".join(TEXT.split())
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines() if line
]


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("faces", "folder")])
def test_data_sets_are_described_as_they_are_read(name):
    source = DATASETS[name]
    assert f"```\n{source.layout.strip()}\n```" in TEXT
    sizes = source.sizes
    assert re.search(
        rf"\*\*{source.title}\*\*, [^*]*{sizes.classes} [^*]* {sizes.train} photographs to train on [^*]*{sizes.test}",
        FLOWING,
    )
    (address,) = re.findall(r"https://[^, ]+", source.origin.split(";")[0])
    assert f"<{address}>" in TEXT


def test_every_recipe_has_its_cost_and_every_file_its_line():
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows if row[0] in RECIPES] == list(RECIPES)
    files = {row[0].strip("`"): row for row in rows if row[0].startswith("`")}
    assert {f"cub-{name}" for name in files} == {
        name for name in RECIPES if name.startswith("cub-") and "boxes" not in name
    }
    for name, (_, _, channels, images, weights) in files.items():
        recipe = load_recipe(f"cub-{name}")
        alpha, beta = recipe.weights
        assert weights == f"α = {alpha:g}, β = {beta:g}"
        assert channels.startswith(str(recipe.channels_per_class or "its "))
        assert images == {"from_scratch": "224²", "pretrained": "448² of 600²"}[recipe.transform]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_there(command, capsys):
    """The module takes every option, and the recipe exists."""
    _, arguments = command.split("-m ", maxsplit=1)
    module, *words = shlex.split(arguments)
    with pytest.raises(SystemExit) as ended:
        import_module(module).main(["--help"])
    assert ended.value.code == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known
    if "--recipe" in words:
        assert words[words.index("--recipe") + 1] in RECIPES


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
def test_examples_run(example, capsys):
    exec(example, {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", ["training.md", "ablations.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", (PAGES / page).read_text())
    assert links
    assert [link for link in links if not (PAGES / link).exists()] == []
