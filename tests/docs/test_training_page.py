"""docs/training.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reference.datasets import DATASETS
from reference.training.recipes import RECIPES, load_recipe

PAGES = Path(__file__).parents[2] / "docs"
TEXT = (PAGES / "training.md").read_text()
FLOWING = " ".join(TEXT.split())


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.sizes is not None])
def test_data_sets_are_described_as_they_are_read(name):
    source = DATASETS[name]
    assert f"```text\n{source.layout.strip()}\n```" in TEXT
    sizes = source.sizes
    assert re.search(
        rf"\*\*{source.title}\*\*, [^*]*{sizes.classes} [^*]* {sizes.train} photographs to train on [^*]*{sizes.test}",
        FLOWING,
    )
    (address,) = re.findall(r"https://[^, ]+", source.origin.split(";")[0])
    assert f"<{address}>" in TEXT


def test_every_file_of_a_recipe_has_its_line():
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
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
