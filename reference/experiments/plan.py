"""The runs of an experiment: variants of one training, each beside its baseline, from the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..training.settings import Settings


@dataclass(frozen=True)
class Variant:
    """One line of a table.

    Attributes:
        name: as the table has it.
        settings: of its runs, but for the seed.
        baseline: the settings that it is compared with; its own where it is a baseline itself.
        seeds: of which it has a run each.
    """

    name: str
    settings: Settings
    baseline: Settings
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Variants in sections, each with the seeds that it is trained from.

    All variants of one seed have the same images. Where they have the same network they start from the same weights and
    see the images in the same order, augmented alike.

    Args:
        base: the settings of which the variants change some.
        sections: the variants by the heading that they stand under.

    Raises:
        ValueError: a variant has no seed, or one twice.
    """

    base: Settings
    sections: Mapping[str, Sequence[Variant]]

    def __post_init__(self) -> None:
        for variant in self.variants():
            require_distinct("seeds", variant.seeds)
            if not variant.seeds:
                raise ValueError("there must be a seed at least.")

    def variants(self) -> list[Variant]:
        """Variants of all sections."""
        return [variant for variants in self.sections.values() for variant in variants]

    def seeds(self) -> list[int]:
        """All seeds of the variants."""
        return list(dict.fromkeys(seed for variant in self.variants() for seed in variant.seeds))

    def settings(self) -> list[Settings]:
        """Settings of every run, seed by seed; a run that several lines need is there once."""
        return list(
            dict.fromkeys(
                replace(settings, seed=seed)
                for seed in self.seeds()
                for variant in self.variants()
                if seed in variant.seeds
                for settings in (variant.baseline, variant.settings)
            )
        )


def vary(
    base: Settings, seeds: Sequence[int], name: str, changes: Mapping[str, Any], baseline: Mapping[str, Any]
) -> Variant:
    """A variant of some settings.

    Args:
        base: the settings.
        seeds: of the variant.
        name: of the variant.
        changes: its own values.
        baseline: those of its baseline.
    """
    own, others = (without_idle_masks(replace(base, seed=0, **values)) for values in (changes, baseline))
    return Variant(name, own, others, tuple(seeds))


def changes(base: Settings, settings: Settings) -> dict[str, Any]:
    """The values in which settings differ from others, but for the seed and where the data are."""
    others = asdict(base)
    return {
        name: value
        for name, value in asdict(settings).items()
        if value != others[name] and name not in ("seed", "data")
    }


def run_name(base: Settings, settings: Settings) -> str:
    """A name for a run's folder, such as ``alpha5-beta10-xi3-drophalf-seed0``, with what else differs from the base."""
    alpha, beta = settings.weights
    named = ("weights", "channels_per_class", "drop")
    others = [f"-{name}{value}" for name, value in changes(base, settings).items() if name not in named]
    xi = settings.channels_per_class
    return f"alpha{alpha:g}-beta{beta:g}-xi{xi}-drop{settings.drop}{''.join(others)}-seed{settings.seed}"


def without_idle_masks(settings: Settings) -> Settings:
    """No masks where there is no L_dis, which alone sees them: runs that are the same have the same settings."""
    return settings if settings.weights[0] else replace(settings, drop=0)


def require_distinct(name: str, values: Sequence[object]) -> None:
    """ValueError where a value is there twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must differ; got {' '.join(map(str, values))}.")
