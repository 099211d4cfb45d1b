"""The published ways of training, as files: ``python -m reference recipes``.

A file here is a way of training one network. With a data set's name before it, it is a recipe: ``cub-resnet50`` is
``resnet50.toml`` on "cub". Keys are the names of `Settings`, and two more: ``extends``, a recipe or a file whose values
hold where a file gives none of its own, and ``description``, one line.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...datasets import DATASETS
from ..settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent

RECIPES = {
    f"{dataset}-{file.stem}": (dataset, file)
    for dataset, source in DATASETS.items()
    if not source.is_installed  # they are for photographs
    for file in sorted(FOLDER.glob("*.toml"))
}
"""The data set and the file of each recipe, by name."""


def load_recipe(recipe: str | Path) -> Settings:
    """The settings of a recipe.

    Args:
        recipe: one of ``RECIPES``, or a TOML file of one's own.

    Raises:
        ValueError: there is no such recipe, or a file has an unknown setting; the message has the nearest names.
        FileNotFoundError: there is no such file.
    """
    values = _values(recipe, Path())
    try:
        return Settings(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{recipe}: {error}") from error


def main(options: object) -> None:
    """Print the recipes."""
    print(describe_recipes())


def describe_recipes() -> str:
    """Every recipe with its description, a line each."""
    width = max(map(len, RECIPES))
    return "\n".join(
        f"{name.ljust(width)}  {DATASETS[dataset].title}: {_read(file)['description']}"
        for name, (dataset, file) in RECIPES.items()
    )


def _values(recipe: str | Path, folder: Path, inside: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe and of what it extends, paths being those in ``folder``."""
    dataset, file = RECIPES.get(str(recipe), (None, folder / Path(recipe).expanduser()))
    if dataset is None and file.suffix != ".toml":
        near = get_close_matches(str(recipe), RECIPES, cutoff=0)
        raise ValueError(
            f"there is no recipe {str(recipe)!r}; the nearest are {', '.join(near)}. A file of your own ends in .toml."
        )
    if file.resolve() in inside:
        raise ValueError(f"{file} extends itself.")
    values = _read(file)
    values.pop("description", None)
    extended = values.pop("extends", None)
    if extended is not None and not isinstance(extended, str):
        raise ValueError(f"extends must be the name of a recipe or of a file; got {extended!r}.")
    base = {} if extended is None else _values(extended, file.parent, (*inside, file.resolve()))
    return {**base, **values, **({} if dataset is None else {"dataset": dataset})}


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no recipe {file}.")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} must be TOML: {error}") from None
    known = ["extends", "description", *(setting.name for setting in fields(Settings))]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0)[0]
            raise ValueError(f"{file}: there is no setting {key!r}; the nearest is {near!r}.")
    return values
