"""Feature extractors, images (B, 3, H, W) -> the last feature map (B, N, h, w), and how many channels one has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

from .names import WIDENED_BACKBONES

IMAGE_SHAPE = (3, 224, 224)
"""The image size that the extractors are made for; some take nothing smaller."""


def torchvision_backbone(
    name: str, weights: str | Path | None = None, *, before_max_pooling: bool = False
) -> nn.Module:
    """A classification network of torchvision up to the feature map that goes into its final average pooling.

    Of a 448×448 image that is 2048×14×14 for ResNet50 and 512×14×14 for VGG16.

    Args:
        name: one of ``torchvision.models.list_models(module=torchvision.models)``.
        weights: one of torchvision's for this network, such as "DEFAULT" or "IMAGENET1K_V1", which are downloaded; or
            a file with the network's state_dict, whose classifier, if it has one, is ignored; None for random ones.
        before_max_pooling: leave out a max pooling that comes last, as in VGG16, whose last convolution gives
            512×28×28.

    Raises:
        ValueError: there is no such network, it has no feature map, or the weights are not for it.
        ConnectionError: the weights cannot be downloaded.
    """
    known = list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"there is no network {name!r} in torchvision {torchvision.__version__}; the nearest are "
            f"{', '.join(get_close_matches(name, known, cutoff=0))}."
        )
    published = get_model_weights(name).__members__
    if weights is None or str(weights) in published:
        model = _downloaded(name, None if weights is None else published[str(weights)])
        return _LastFeatureMap(name, model, before_max_pooling)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ValueError(
            f"the weights of {name} must be a file or one of {', '.join(published)}; there is no file {str(weights)!r}."
        )
    model = get_model(name, weights=None)
    features = _LastFeatureMap(name, model, before_max_pooling)
    _load(features.layers, model, file)
    return features


def widened_backbone(name: str, num_channels: int) -> nn.Module:
    """A network to train from scratch whose last stage has any number of channels, on 14×14 for 224×224 images.

    Both are as in the authors' code, https://github.com/PRIS-CV/Mutual-Channel-Loss, initial weights included.

    Args:
        name: "vgg16_bn": the final convolutions of the last two stages have N channels, and no pooling follows the
            last. "resnet18": both blocks of the last stage have N channels, and stride 1.
        num_channels: N, which is C·ξ in the paper.

    Raises:
        ValueError: there is no such network to widen.
    """
    if name == "vgg16_bn":
        # The paper says VGG16; its code has batch norm after every convolution, and PyTorch's own initial weights.
        stages = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, num_channels, "M", 512, 512, num_channels]
        features: nn.Module = make_layers(stages, batch_norm=True)
        return features
    if name == "resnet18":
        model = get_model(name, weights=None)
        # The first block always projects its input, like every stage that changes size: also where N is 256.
        projection = nn.Sequential(nn.Conv2d(256, num_channels, 1, bias=False), nn.BatchNorm2d(num_channels))
        model.layer4 = nn.Sequential(
            BasicBlock(256, num_channels, downsample=projection), BasicBlock(num_channels, num_channels)
        )
        for module in model.layer4.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return _LastFeatureMap(name, model)
    raise ValueError(
        f"only {' and '.join(WIDENED_BACKBONES)} can be widened; got {name!r}. Without channels_per_class the network "
        "keeps its own channels, which are split among the classes."
    )


def count_channels(features: nn.Module, image_shape: tuple[int, int, int] = IMAGE_SHAPE) -> int:
    """N of any extractor, by a look at the features of one black image; nothing in the extractor changes.

    Args:
        features: images -> (B, N, h, w).
        image_shape: (image channels, H, W) of the image.

    Raises:
        ValueError: the extractor cannot take such an image, or gives no (B, N, h, w).
    """
    parameter = next(features.parameters(), torch.zeros(()))
    image = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in features.modules()}
    features.eval()  # in training batch norm would take the image into its statistics
    try:
        with torch.no_grad():
            output = features(image)
    except RuntimeError as error:
        raise ValueError(
            f"the feature extractor cannot take an image of shape {tuple(image.shape)}: {error} Give the shape of its "
            "images, for example image_shape=(1, 28, 28)."
        ) from error
    finally:
        features.train(modes[features])  # a module's own train() may do more than set the flag
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(output, Tensor) or output.dim() != 4:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the feature extractor must give a feature map (B, N, H, W), before any pooling or flattening; for an "
            f"image of shape {tuple(image.shape)} it gave {given}."
        )
    return output.shape[1]


class _LastFeatureMap(nn.Module):
    """The layers of a torchvision model up to its last feature map; they keep their names."""

    def __init__(self, name: str, model: nn.Module, before_max_pooling: bool = False) -> None:
        super().__init__()
        self.layers = create_feature_extractor(model, {_last_feature_map(name, model, before_max_pooling): "map"})

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)["map"]
        return features


def _downloaded(name: str, weights: WeightsEnum | None) -> nn.Module:
    try:
        return get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # the latter for a file that came damaged
        if weights is None:
            raise
        raise ConnectionError(
            f"the weights {weights.name} of {name} cannot be downloaded: {error}. Get {weights.url} elsewhere, and "
            "give that file as the weights."
        ) from error


def _last_feature_map(name: str, model: nn.Module, before_max_pooling: bool) -> str:
    """The name of what goes into the final average pooling, which every one of torchvision's networks with maps has."""
    _, nodes = get_graph_node_names(model)
    modules = dict(model.named_modules())
    poolings = {index for index, node in enumerate(nodes) if _is_pooling(node, modules)}
    if not poolings:
        raise ValueError(
            f"{name} has no feature map (B, N, H, W) at its end, on which the MC-Loss could look for places; take a "
            "convolutional network or a Swin transformer, or give a module whose output is such a map."
        )
    index = max(poolings) - 1
    while before_max_pooling and index in poolings:  # AlexNet and VGG pool twice
        index -= 1
    return str(nodes[index])


def _is_pooling(node: str, modules: Mapping[str, nn.Module]) -> bool:
    is_function = re.fullmatch(r"(.*\.)?(adaptive_avg_pool2d|mean)(_\d+)?", node) is not None
    return is_function or isinstance(modules.get(node), nn.AdaptiveAvgPool2d | nn.MaxPool2d)


def _load(layers: nn.Module, model: nn.Module, path: Path) -> None:
    """Load into ``layers``, some of those of ``model``, the state_dict of such a model."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for a broken file PyTorch raises nearly every kind
        raise ValueError(f"{path} has no state_dict; write one by torch.save(model.state_dict(), path).") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} must hold a state_dict, names to tensors; got {type(loaded).__name__}.")
    # The files published for DenseNet still have the names from before modules could have no dot in theirs.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", str(key)): loaded[key] for key in loaded}
    whole = model.state_dict()
    # Following the layers makes new constants in some, which no file has.
    wanted = {key: value for key, value in layers.state_dict().items() if key in whole}
    problems = {
        # PyTorch before 0.4.1 did not count batches, and some published files are as old.
        "missing": [key for key in wanted if key not in state and not key.endswith(".num_batches_tracked")],
        "unknown": [key for key in state if key not in whole],
        "of another shape": [
            key for key in wanted if key in state and getattr(state[key], "shape", None) != wanted[key].shape
        ],
    }
    found = [f"{what}: {_first_of(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise ValueError(
            f"{path} must hold a state_dict of this network, with torchvision's names; {'; '.join(found)}. Write it by "
            "torch.save(model.state_dict(), path) from the network itself, not from what wraps it, such as "
            "DistributedDataParallel, and with nothing beside it."
        )
    layers.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _first_of(keys: list[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (f" and {len(keys) - shown} more" if len(keys) > shown else "")
