"""docs/training.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reference.datasets import DATASETS
from reference.training.recipes import RECIPES, load_recipe

PAGES = Path(__file__).parents[2] / "docs"
TEXT = (PAGES / "training.md").read_text()


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.sizes is not None])
def test_data_sets_are_described_as_they_are_read(name):
    (row,) = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith(f"| `{name}-...`")]
    sizes = DATASETS[name].sizes
    assert row[2:4] == [str(sizes.classes), f"{sizes.train}, {sizes.test}"]
    if name != "cub-boxes":
        assert row[1].startswith(DATASETS[name].title)
        (address,) = re.findall(r"https://[^, ]+", DATASETS[name].origin.split(";")[0])
        assert row[4].startswith(f"<{address}>")


def test_every_file_of_a_recipe_has_its_line():
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
    files = {row[0].strip("`"): row for row in rows if row[0].startswith("`") and "..." not in row[0]}
    assert {f"cub-{name}" for name in files} == {
        name for name in RECIPES if name.startswith("cub-") and "boxes" not in name
    }
    for name, (_, _, channels, images, weights) in files.items():
        recipe = load_recipe(f"cub-{name}")
        alpha, beta = recipe.weights
        assert weights == f"α = {alpha:g}, β = {beta:g}"
        assert channels.startswith(str(recipe.channels_per_class or "its "))
        assert images == {"from_scratch": "224²", "pretrained": "448² of 600²"}[recipe.transform]
