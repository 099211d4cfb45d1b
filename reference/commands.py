"""The commands and their options, read before PyTorch is loaded.

The text below a field is its help. A command that trains takes every setting as an option, with the values of its
recipe as defaults.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from .datasets import DATASETS
from .training.recipes import load_recipe
from .training.settings import Drop, Settings

RunSettings = Annotated[Settings, arg(name="")]
"""Settings as options without a prefix."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device and workers of a command."""

    device: str = "auto"
    """such as cpu or cuda:1; auto is a GPU where there is one"""
    workers: int = 0
    """processes that read images ahead, for each process or run that trains"""


@dataclass(frozen=True, kw_only=True)
class Events(Machine):
    """Events for TensorBoard."""

    tensorboard: bool = False
    """write events for TensorBoard into the folder"""
    tensorboard_images: int = 0
    """test images, of so many classes, that events show with the maps of their class's channels"""


@dataclass(frozen=True, kw_only=True)
class Experiment(Machine):
    """Several runs."""

    settings: RunSettings
    seeds: tuple[int, ...]
    """each is a run of every variant"""
    folder: Path
    """for all runs and results"""
    processes: int | None = None
    """runs at the same time; by default one, or on CPUs as many as there are cores for the threads of each"""


@dataclass(frozen=True)
class Recipes:
    """List the published ways of training."""


@dataclass(frozen=True, kw_only=True)
class Train(Events):
    """Train a network by cross-entropy and MC-Loss, by a recipe or on a data set with settings of your own."""

    settings: RunSettings
    recipe: str = ""
    """published way of training, or a TOML file; other options override its values"""
    folder: str = ""
    """for checkpoints and metrics; without one, a new folder in runs/, named after the recipe or data set"""


@dataclass(frozen=True, kw_only=True)
class Resume(Events):
    """Resume an interrupted run with the settings that it has."""

    folder: Positional[Path]
    """of the run"""
    data: str = ""
    """folder of the data set's files, if they were moved"""


@dataclass(frozen=True, kw_only=True)
class Validate(Machine):
    """Measure a trained network on the test images."""

    checkpoint: Positional[Path]
    """written by reference train"""
    data: str = ""
    """folder of the data set's files, if they were moved"""


@dataclass(frozen=True)
class Predict:
    """Print the most probable classes of each image."""

    images: Positional[tuple[Path, ...]]
    """files"""
    checkpoint: Path
    """written by reference train"""


@dataclass(frozen=True)
class Explain:
    """Draw where the channels of a class look in each image.

    It is the true class, if it is given, and the predicted one, if it is another.
    """

    images: Positional[tuple[Path, ...]]
    """files"""
    checkpoint: Path
    """of the network"""
    compare: Path | None = None
    """checkpoint of another network, drawn beside it"""
    true_class: Annotated[str | None, arg(name="class", metavar="NAME")] = None
    """true class of the images"""
    output: Path = Path("runs/explain")
    """folder for the figures"""
    html: Path | None = None
    """file of one page to explore all images in a browser"""


@dataclass(frozen=True, kw_only=True)
class Ablation(Experiment):
    """Compare the parts of MC-Loss, beside controls.

    Trains by cross-entropy alone, with each component of the MC-Loss and with both, with and without masks, and over
    drop and ξ, from the same seeds.
    """

    recipe: str = ""
    """published way of training, or a TOML file; other options override its values"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folder: Path = Path("runs/ablation")
    over_drop: tuple[Drop, ...] | None = None
    """values to compare; by default of 0, 0.25, half, 0.75 those that mask another number of channels"""
    over_channels_per_class: tuple[int, ...] | None = None
    """values of ξ to compare; by default 2, 3, 4, 6, where ξ can be chosen"""
    picks: Path | None = None
    """settings of single variants, in a file of reference search"""
    finished: bool = False
    """train nothing: table and picture of the runs that are finished"""
    figures: Path | None = None
    """folder for the picture, if another"""
    redraw: Path | None = None
    """train nothing: table and picture of this results.json"""


@dataclass(frozen=True, kw_only=True)
class Search(Experiment):
    """Pick settings for each variant of the ablation.

    Trains with all settings of a grid, and picks those of the highest mean accuracy on the test images. They must not
    be those that results are reported on: typefaces draw others for each seed.
    """

    seeds: tuple[int, ...] = (100,)
    folder: Path = Path("runs/search")
    grid: Path = Path(__file__).parent / "experiments" / "typefaces_grid.json"
    """settings to try, by variant"""


@dataclass(frozen=True, kw_only=True)
class Demo(Experiment):
    """Train on typefaces with and without MC-Loss, and compare."""

    seeds: tuple[int, ...] = (0, 1, 2)
    folder: Path = Path("runs/demo")
    figures: Path | None = None
    """folder for the picture, if another"""


@dataclass(frozen=True)
class Animate:
    """Draw where the channels look on typefaces, epoch by epoch, with and without MC-Loss; trains on the CPU."""

    settings: RunSettings
    output: Path = Path("runs/animation")
    """folder for the two GIF files, light and dark"""


@dataclass(frozen=True)
class Regions:
    """Measure where the channels look on words.

    Of a word's own class, on the test words of runs on typefaces; and the accuracy that is left where a quarter of the
    word is blanked.
    """

    runs: Positional[tuple[Path, ...]]
    """checkpoints of runs on typefaces, of each seed"""


@dataclass(frozen=True)
class Borders:
    """Train with other borders and maps on typefaces, and measure where the channels look as regions does."""

    settings: RunSettings
    seeds: tuple[int, ...] = (0, 1)
    """each is a run of every variant"""
    folder: Path = Path("runs/borders")
    """for all runs"""


@dataclass(frozen=True)
class ListTypefaces:
    """List the fonts of the data set typefaces, with their licences and sizes."""


COMMANDS: dict[str, tuple[type, str]] = {
    "recipes": (Recipes, "training.recipes"),
    "train": (Train, "training.train"),
    "resume": (Resume, "training.train"),
    "validate": (Validate, "training.validate"),
    "predict": (Predict, "training.predict"),
    "explain": (Explain, "figures.explain"),
    "ablation": (Ablation, "experiments.ablation"),
    "search": (Search, "experiments.search"),
    "demo": (Demo, "experiments.demo"),
    "animate": (Animate, "experiments.animation"),
    "regions": (Regions, "experiments.word_regions"),
    "borders": (Borders, "experiments.borders"),
    "typefaces": (ListTypefaces, "datasets.typefaces"),
}
"""The options of each command, and the module whose ``main`` takes them."""


def parse(name: str, arguments: list[str]) -> Any:
    """The options of a command.

    Raises:
        ValueError, OSError: a value is out of its range, or there is no such recipe.
        SystemExit: an option is unknown or malformed, or after ``--help``.
    """
    options, _ = COMMANDS[name]
    settings = _recipe_settings(name, arguments) if any(one.name == "settings" for one in fields(options)) else None
    default = None if settings is None else options(settings=settings)
    parsed = tyro.cli(options, args=arguments, prog=f"python -m reference {name}", default=default)
    for field, least in (("workers", 0), ("tensorboard_images", 0), ("processes", 1)):
        if (value := getattr(parsed, field, None)) is not None and value < least:
            raise ValueError(f"{field} must be at least {least}; got {value}.")
    for field in ("images", "runs", "seeds"):
        if getattr(parsed, field, None) == ():
            raise ValueError(f"{name} needs one or more {field}.")
    if settings is not None and not getattr(parsed, "redraw", None):
        DATASETS[parsed.settings.dataset].root(parsed.settings.data)  # must be given
    return parsed


def _recipe_settings(name: str, arguments: list[str]) -> Settings:
    """The settings of the recipe among the arguments, or the default ones."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", default="")
    chooser.add_argument("--dataset", default="")
    chosen, others = chooser.parse_known_args(arguments)
    if chosen.recipe:
        return load_recipe(chosen.recipe)
    if name == "train" and not chosen.dataset and not {"-h", "--help"} & set(others):
        raise ValueError(
            "train needs --recipe NAME, one of `python -m reference recipes` or a TOML file, or --dataset NAME, one of "
            f"{', '.join(DATASETS)}, and settings of your own."
        )
    return Settings()
