"""What an ablation trains: the parts of the MC-Loss one by one, and numbers of channels, each beside its baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..training.settings import Settings

Drop = str | int | float


@dataclass(frozen=True)
class Variant:
    """One line of the table.

    Attributes:
        name: what people call it.
        settings: of its runs, but for the seed.
        baseline: the same network by cross-entropy alone.
    """

    name: str
    settings: Settings
    baseline: Settings


@dataclass(frozen=True)
class Plan:
    """An ablation.

    All variants of one seed start from the same weights and train on the same images in the same order, where the
    network is the same: ξ changes it, so each ξ has a baseline of its own.

    Args:
        base: the settings of the whole loss, whatever their seed.
        seeds: of which every variant has a run each.
        channels: ξ, the numbers of channels a class to compare.
        drops: how many of a class's channels to mask, to compare; see ``drop`` in `Settings`.

    Raises:
        ValueError: there is nothing to leave out, something is there twice, or a value cannot be.
    """

    base: Settings
    seeds: tuple[int, ...]
    channels: tuple[int, ...] = ()
    drops: tuple[Drop, ...] = ()

    def __post_init__(self) -> None:
        base = self.base
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
        if self.channels and base.channels_per_class == 0:
            raise ValueError(
                "channels_per_class is 0, which divides the backbone's own channels among the classes: there is no "
                "ξ to compare. Leave --over-channels-per-class without a value."
            )
        for name, values in (("seeds", self.seeds), ("ξ", self.channels), ("values of drop", self.drops)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must differ; got {' '.join(map(str, values))}.")
        if not self.seeds:
            raise ValueError("there must be a seed at least.")
        for settings in self.settings():
            if isinstance(settings.drop, float) and 0 < settings.channels_per_class * settings.drop < 1:
                raise ValueError(
                    f"drop {settings.drop} masks none of {settings.channels_per_class} channels, as fractions are "
                    "rounded down: the line would say what drop 0 says."
                )
            if isinstance(settings.drop, int) and 0 < settings.channels_per_class <= settings.drop:
                raise ValueError(
                    f"drop must leave a channel of each class, at most {settings.channels_per_class - 1} for ξ = "
                    f"{settings.channels_per_class}; got {settings.drop}. A fraction, such as 0.5, fits every ξ."
                )

    def sections(self) -> dict[str, list[Variant]]:
        """The lines of the table, by the heading that they stand under."""
        base = self.base
        alpha, beta = base.weights
        sections = {
            "components of the loss": [
                self._variant("cross-entropy", weights=(0, 0)),
                self._variant("+ L_dis", weights=(alpha, 0)),
                self._variant("+ L_div", weights=(0, beta)),
                self._variant("+ L_dis + L_div"),
                self._variant("+ L_dis + L_div, no masks", drop=0),
            ],
            "channels of a class that are masked": [self._variant(f"drop {drop}", drop=drop) for drop in self.drops],
            "channels of a class": [
                self._variant(f"ξ = {number}, {name}", channels_per_class=number, weights=weights)
                for number in self.channels
                for name, weights in (("cross-entropy", (0, 0)), ("+ L_dis + L_div", base.weights))
            ],
        }
        return {heading: variants for heading, variants in sections.items() if variants}

    def settings(self) -> list[Settings]:
        """Those of every run, seed by seed; what several lines need is trained once."""
        variants = [variant for variants in self.sections().values() for variant in variants]
        return list(
            dict.fromkeys(
                replace(settings, seed=seed)
                for seed in self.seeds
                for variant in variants
                for settings in (variant.baseline, variant.settings)
            )
        )

    def _variant(self, name: str, **changes: object) -> Variant:
        settings = replace(self.base, seed=0, **changes)  # type: ignore[arg-type]
        return Variant(name, _plain(settings), _plain(replace(settings, weights=(0, 0))))


def run_name(settings: Settings) -> str:
    """The name of a run's folder, such as ``alpha0.5-beta3-xi4-drophalf-seed0``."""
    alpha, beta = settings.weights
    xi = settings.channels_per_class
    return f"alpha{alpha:g}-beta{beta:g}-xi{xi}-drop{settings.drop}-seed{settings.seed}"


def _plain(settings: Settings) -> Settings:
    """Without masks where there is no L_dis, which alone sees them: runs that are the same have the same settings."""
    return settings if settings.weights[0] else replace(settings, drop=0)
