"""Cross-entropy with and without MC-Loss, on typefaces, from the same seeds: ``python -m reference demo``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..channels.explanation import explain_image
from ..commands import Demo
from ..datasets import Labelled
from ..datasets.images import examples
from ..datasets.transforms import photograph
from ..model.network import MCNetwork
from ..training.build import load_test_data
from ..training.checkpoint import load_network
from ..training.run_folder import CHECKPOINT
from ..training.settings import CROSS_ENTROPY, MC_LOSS, Settings
from . import experiment
from .plan import Plan, run_name, vary
from .results import Results
from .table import MEASURES, SECONDS, sources, table

if TYPE_CHECKING:
    from ..figures.explanation_figure import Panel

PICTURED, EXPLORED = 6, 20
"""Classes of the picture and of the page."""


def main(options: Demo) -> None:
    """Train, compare and draw."""
    started = time.perf_counter()
    plan = demo_plan(options.settings, options.seeds)
    results = experiment.run_and_write(plan, options)
    print(table(results, MEASURES | SECONDS))
    paths = draw(results, options.folder, options.figures or options.folder)
    print(f"\npicture: {paths[0]}, {paths[1]}")
    print(f"explore: {paths[2]} in a browser")
    print(f"numbers: {options.folder / 'results.json'}")
    print(f"runs:    {options.folder}/*/, each with its checkpoint and its metrics")
    print(f"{time.perf_counter() - started:.0f} seconds in all")


def demo_plan(base: Settings, seeds: Sequence[int]) -> Plan:
    """The two losses; ValueError where the weights leave no MC-Loss."""
    if not any(base.weights):
        raise ValueError("weights 0 0 leave no MC-Loss to compare cross-entropy with.")
    without = {"weights": (0.0, 0.0)}
    lines = [vary(base, seeds, CROSS_ENTROPY, without, without), vary(base, seeds, MC_LOSS, {}, without)]
    return Plan(base, {"loss": lines})


def draw(results: Results, folder: Path, figures: Path) -> list[Path]:
    """The channels of both networks of the first seed, on the first test image of some classes: a picture in its two
    variants, and a page to explore more images."""
    # Here, so that training processes do not load matplotlib.
    from ..figures.explorer import write_explorer
    from ..figures.own_channels import draw_own_channels

    plan = results.plan
    first, *_ = plan.settings()
    test_set = load_test_data(first)
    networks = {
        loss: load_network(folder / run_name(plan.base, settings) / CHECKPOINT)[0]
        for loss, settings in zip((CROSS_ENTROPY, MC_LOSS), plan.settings(), strict=False)
    }
    trained_on = sources(first, results.environment)
    subtitle = (
        "Test images under the channels of their own class; colour: activation, brightest where it is largest among "
        f"the class's channels. {trained_on}"
    )
    paths = draw_own_channels(networks, test_set, examples(test_set, PICTURED), subtitle, figures, "demo_channels")
    page = figures / "demo_channels.html"
    write_explorer(page, panels(networks, test_set, examples(test_set, EXPLORED)), f"Test images. {trained_on}")
    return [*paths, page]


def panels(networks: Mapping[str, MCNetwork], test_set: Labelled, indices: Sequence[int]) -> dict[str, list[Panel]]:
    """A panel for each network, by the name of the image."""
    from ..figures.explanation_figure import Panel

    explored = {}
    for index in indices:
        image, label = test_set[index]
        name, photo = test_set.classes[label], photograph(image, test_set.transform)
        explored[name] = [
            Panel(loss, photo, explain_image(network, image, test_set.classes, name))
            for loss, network in networks.items()
        ]
    return explored
