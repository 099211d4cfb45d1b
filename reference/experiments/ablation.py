"""Effect of each part of the MC-Loss on a network: ``python -m reference ablation --help``.

Runs that are finished are not trained again, and one that was stopped goes on where it was: to add seeds, repeat the
command with all of them; to spread the runs over several GPUs, give each some seeds, and in the end all to one command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..commands import Ablation
from ..model.names import SMALL
from ..training.settings import Drop, Settings
from . import experiment
from .plan import Plan, Variant, require_distinct, vary
from .results import read
from .table import table

Picks = Mapping[str, Mapping[str, Any]]
"""Settings that were picked, by the name of the variant."""

DROPS: tuple[Drop, ...] = (0, 0.25, "half", 0.75)
CHANNELS = (2, 3, 4, 6)

CROSS_ENTROPY, WHOLE, AUXILIARY = "cross-entropy", "+ L_dis + L_div", "auxiliary classifier"


def main(options: Ablation) -> None:
    """Train, print the table and draw the figure."""
    started = time.perf_counter()
    results = read(options.redraw) if options.redraw else experiment.run_and_write(_plan(options), options)
    print(table(results))
    # Here, so that the processes that train do not load matplotlib.
    from ..figures.theme import save
    from .figure import ablation_figure

    paths = save(partial(ablation_figure, results), options.figures or options.folder, "ablation")
    print(f"\npicture: {', '.join(map(str, paths))}")
    if not options.redraw:
        print(f"numbers: {options.folder / 'results.json'}")
        print(f"{len(results.rows)} runs; {time.perf_counter() - started:.0f} seconds in all")


def ablation_plan(
    base: Settings,
    seeds: Sequence[int],
    channels: Sequence[int] = (),
    drops: Sequence[Drop] = (),
    picks: Picks | None = None,
) -> Plan:
    """The parts of the MC-Loss one by one, numbers of channels, and controls.

    Args:
        base: the settings of the whole loss, whatever their seed.
        seeds: of which every variant has a run each.
        channels: ξ, the numbers of channels per class to compare.
        drops: how many of a class's channels to mask, to compare; see ``drop`` in `Settings`.
        picks: settings of single variants, where they are not those of the base; the variants over ξ and drop have
            those of the whole loss or of cross-entropy.

    Raises:
        ValueError: there is nothing to leave out, something is there twice, or a value cannot be.
    """
    _require_parts(base, channels, drops)
    picks = picks or {}
    alpha, beta = base.weights
    none = (0.0, 0.0)
    longer = 2 * base.epochs

    def line(name: str, picked: str = "", *, against: str = CROSS_ENTROPY, **values: Any) -> Variant:
        """A line with the picks of ``picked``, or of its own name, beside the cross-entropy of ``against``."""
        shared = {key: value for key, value in values.items() if key in ("channels_per_class", "epochs", "pooling")}
        own = {"weights": none if picked == CROSS_ENTROPY else base.weights}
        return vary(
            base,
            seeds,
            name,
            own | values | picks.get(picked or name, {}),
            {"weights": none} | shared | picks.get(against, {}),
        )

    sections = {
        "components of the loss": [
            line(CROSS_ENTROPY, CROSS_ENTROPY),
            line("+ L_dis", weights=(alpha, 0.0)),
            line("+ L_div", weights=(0.0, beta)),
            line(WHOLE),
            line("+ L_dis + L_div, no masks", WHOLE, drop=0),
        ],
        "channels of a class that are masked": [line(f"drop {drop}", WHOLE, drop=drop) for drop in drops],
        "channels of a class": [
            line(f"ξ = {number}, {name}", name, channels_per_class=number)
            for number in channels
            for name in (CROSS_ENTROPY, WHOLE)
        ],
        "controls": [
            line("label smoothing", label_smoothing=0.1, weights=none),
            line(AUXILIARY, auxiliary=alpha, weights=none),
        ],
        "twice the epochs": [
            line(f"{longer} epochs, {CROSS_ENTROPY}", CROSS_ENTROPY, epochs=longer),
            line(f"{longer} epochs, {WHOLE}", WHOLE, epochs=longer),
            line(f"{longer} epochs, {AUXILIARY}", AUXILIARY, epochs=longer, auxiliary=alpha, weights=none),
        ],
    }
    if base.backbone == SMALL:
        other = "max" if base.pooling == "mean" else "mean"
        against = f"{other} pooling, {CROSS_ENTROPY}"
        sections[f"{other} pooling"] = [
            line(against, against, against=against, weights=none, pooling=other),
            line(f"{other} pooling, {WHOLE}", against=against, pooling=other),
        ]
    return Plan(base, {heading: variants for heading, variants in sections.items() if variants})


def read_picks(path: Path) -> Picks:
    """Settings that `search` picked; ValueError where the file has something else."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not all(isinstance(values, dict) for values in content.values()):
        raise ValueError(f"{path} must hold settings by the name of a variant, as reference search writes them.")
    return content


def drops_for(channels_per_class: int) -> list[Drop]:
    """Those of `DROPS` that are 0 or mask any of ξ channels; with ξ = 0, a backbone's own, a class can have only 2."""
    fewest = channels_per_class or 2
    return [drop for drop in DROPS if drop == 0 or (0.5 if drop == "half" else float(drop)) * fewest >= 1]


def _require_parts(base: Settings, channels: Sequence[int], drops: Sequence[Drop]) -> None:
    if not all(base.weights):
        raise ValueError(
            f"both weights must be above 0, as each is left out in turn; got {' '.join(map(str, base.weights))}."
        )
    if base.convention != "official":
        raise ValueError(
            f'convention must be "official"; got {base.convention!r}, in which no weights leave out L_dis alone.'
        )
    if base.drop == 0:
        raise ValueError("drop must not be 0, as one of the variants is without masks.")
    if channels and base.channels_per_class == 0:
        raise ValueError(
            "channels_per_class is 0, which divides the backbone's own channels among the classes: there is no "
            "ξ to compare. Leave --over-channels-per-class without a value."
        )
    require_distinct("ξ", channels)
    require_distinct("values of drop", drops)
    for xi in {base.channels_per_class, *channels}:
        for drop in {base.drop, *(drops if xi == base.channels_per_class else ())}:
            if isinstance(drop, float) and 0 < xi * drop < 1:
                raise ValueError(
                    f"drop {drop} masks none of {xi} channels, as fractions are rounded down: the line would say what "
                    "drop 0 says."
                )
            if isinstance(drop, int) and 0 < xi <= drop:
                raise ValueError(
                    f"drop must leave a channel of each class, at most {xi - 1} for ξ = {xi}; got {drop}. A fraction, "
                    "such as 0.5, fits every ξ."
                )


def _plan(options: Ablation) -> Plan:
    base, channels, drops = options.settings, options.over_channels_per_class, options.over_drop
    if channels is None:
        channels = CHANNELS if base.channels_per_class else ()
    if drops is None:
        drops = tuple(drops_for(base.channels_per_class))
    picks = read_picks(options.picks) if options.picks else {}
    try:
        plan = ablation_plan(base, options.seeds, channels, drops, picks)
    except TypeError as error:
        raise ValueError(f"{options.picks}: {error}") from error
    return experiment.finished(plan, options.folder) if options.finished else plan
