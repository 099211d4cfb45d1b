"""Channels that drift to the empty border of a word, and changes that may mend it: ``python -m reference borders``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from ..commands import Borders
from ..datasets.typefaces import Typefaces
from ..model.names import SMALL
from ..training.build import build_network, load_data
from ..training.trainer import train
from .word_regions import measures, table


class Crop(nn.Module):
    """Leave out the outermost positions of maps (B, N, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps[..., 1:-1, 1:-1]


def without_bias(features: nn.Sequential) -> nn.Sequential:
    """No bias before the last ReLU, the one of batch norm, which is 0 at first."""
    features[-2].bias.requires_grad_(False)
    return features


def cropped(features: nn.Sequential) -> nn.Sequential:
    """The head and the loss see no outermost position."""
    return nn.Sequential(features, Crop())


def valid(features: nn.Sequential) -> nn.Sequential:
    """The last convolution sees no padding."""
    features[-3] = _like(features[-3], padding=0)
    return features


def replicated(features: nn.Sequential) -> nn.Sequential:
    """Every convolution pads with the values at the border in place of zeros."""
    for number, module in enumerate(features):
        if isinstance(module, nn.Conv2d):
            features[number] = _like(module, padding_mode="replicate")
    return features


def finer(features: nn.Sequential) -> nn.Sequential:
    """One pooling less: positions of 4×4 pixels in place of 8×8."""
    last = max(number for number, module in enumerate(features) if isinstance(module, nn.MaxPool2d))
    return nn.Sequential(*(module for number, module in enumerate(features) if number != last))


VARIANTS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "as it is": lambda features: features,
    "no bias": without_bias,
    "border cropped": cropped,
    "valid convolution": valid,
    "replicated padding": replicated,
    "finer map": finer,
}


def main(options: Borders) -> None:
    """Train every variant from every seed, and print a line for each."""
    if options.settings.dataset != "typefaces" or options.settings.backbone != SMALL:
        raise ValueError("borders changes the small network on typefaces, whose letters are known.")
    rows = []
    for seed in options.seeds:
        settings = replace(options.settings, seed=seed, evaluate_every=options.settings.epochs)
        train_set, test_set = load_data(settings)
        assert isinstance(test_set, Typefaces)
        for name, change in VARIANTS.items():
            network = build_network(settings, len(train_set.classes))
            assert isinstance(network.features, nn.Sequential)
            network.features = change(network.features)
            train(network, train_set, test_set, settings, options.folder / f"{name}-seed{seed}".replace(" ", "-"))
            network.eval()
            rows.append((name, measures(network, test_set, seed)))
    print(table(rows))


def _like(convolution: nn.Module, *, padding: int | None = None, padding_mode: str = "zeros") -> nn.Conv2d:
    """A convolution with the same weight and another padding."""
    assert isinstance(convolution, nn.Conv2d)
    outputs, inputs, size, _ = convolution.weight.shape
    changed = nn.Conv2d(
        inputs,
        outputs,
        size,
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=size // 2 if padding is None else padding,
        padding_mode=padding_mode,
        bias=False,
    )
    changed.weight = convolution.weight
    return changed
