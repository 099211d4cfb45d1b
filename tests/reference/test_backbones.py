"""The base networks: their shapes and sizes, their weights, which channels go where, and that they train."""

import re
from collections import OrderedDict
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d
from torchvision.models import get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor

from mcl_triton import ChannelGroups, MCLoss
from reference.model.backbones import count_channels, torchvision_backbone, widened_backbone
from reference.model.base_networks import BilinearPooling, base_network, parameter_groups


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2


# Name: channels, stride of the last map, parameters of the classifier that is left out.
PUBLISHED = {
    "vgg16": (512, 32, linear(512 * 7 * 7, 4096) + linear(4096, 4096) + linear(4096, 1000)),
    "resnet18": (512, 32, linear(512, 1000)),
    "resnet50": (2048, 32, linear(2048, 1000)),
    "efficientnet_b0": (1280, 32, linear(1280, 1000)),
    "mobilenet_v3_large": (960, 32, linear(960, 1280) + linear(1280, 1000)),
    "densenet121": (1024, 32, linear(1024, 1000)),
    "convnext_tiny": (768, 32, 2 * 768 + linear(768, 1000)),
    "regnet_y_400mf": (440, 32, linear(440, 1000)),
    "shufflenet_v2_x1_0": (1024, 32, linear(1024, 1000)),
    "swin_t": (768, 32, linear(768, 1000)),
}
# The rest of each network, from the last feature map to the logits.
REST = {
    "vgg16": lambda model, features: model.avgpool(features),
    "resnet18": lambda model, features: model.fc(model.avgpool(features).flatten(1)),
    "efficientnet_b0": lambda model, features: model.classifier(model.avgpool(features).flatten(1)),
    "mobilenet_v3_large": lambda model, features: model.classifier(model.avgpool(features).flatten(1)),
    "densenet121": lambda model, features: model.classifier(adaptive_avg_pool2d(features, 1).flatten(1)),
    "convnext_tiny": lambda model, features: model.classifier(model.avgpool(features)),
    "regnet_y_400mf": lambda model, features: model.fc(model.avgpool(features).flatten(1)),
    "swin_t": lambda model, features: model.head(model.avgpool(features).flatten(1)),
}


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def meta_images(size: int) -> torch.Tensor:
    return torch.empty(2, 3, size, size, device="meta")


@pytest.mark.parametrize("name", PUBLISHED)
def test_channels_shapes_and_published_numbers_of_parameters(name):
    channels, stride, classifier = PUBLISHED[name]
    features = torchvision_backbone(name).to("meta")  # RegNet cannot be made there
    assert count_channels(features) == channels
    assert num_parameters(features) == get_model_weights(name).DEFAULT.meta["num_params"] - classifier
    for size in (224, 448):
        assert features(meta_images(size)).shape == (2, channels, size // stride, size // stride)


@pytest.mark.parametrize("name", REST)
def test_a_file_of_weights_gives_the_features_of_that_network(name, tmp_path):
    model = get_model(name)
    random = torch.Generator().manual_seed(1)
    for key, buffer in model.named_buffers():  # statistics that no new network has
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=random)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=random)
    if name == "vgg16":
        model.classifier = nn.Identity()  # half a gigabyte to write
    model.eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    features = torchvision_backbone(name, str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, 3, 64, 64, generator=random)
    with torch.no_grad():
        rest = REST[name](model, features(images)).flatten(1)
        torch.testing.assert_close(rest, model(images).flatten(1), rtol=0, atol=0)
    assert rest.std() > 0


def test_a_file_of_weights_needs_no_constants_of_a_network(monkeypatch, tmp_path):
    def make(name=None, weights=None):
        return torchvision.models.MaxVit((64, 64), 8, 2, [8, 8], [1, 1], head_dim=4, stochastic_depth_prob=0).eval()

    monkeypatch.setattr("reference.model.backbones.get_model", make)  # the real one takes seconds
    model = make()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    features = torchvision_backbone("maxvit_t", tmp_path / "weights.pth").eval()
    assert any("constant" in key for key in features.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.classifier(features(images)), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_the_last_max_pooling_can_be_left_out(name, tmp_path):
    model = get_model(name)
    model.classifier = nn.Identity()  # much of what there is to write
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    assert isinstance(model.features[-1], nn.MaxPool2d)
    images = torch.randn(1, 3, 64, 64)
    for before_max_pooling, expected in ((False, model.features), (True, model.features[:-1])):
        features = torchvision_backbone(name, tmp_path / "weights.pth", before_max_pooling=before_max_pooling)
        torch.testing.assert_close(features(images), expected(images), rtol=0, atol=0)


def test_without_a_max_pooling_at_the_end_none_is_left_out():
    with torch.device("meta"):
        features = torchvision_backbone("resnet18", before_max_pooling=True)
    assert features(meta_images(448)).shape == (2, 512, 14, 14)


def test_weights_by_name_are_torchvisions(monkeypatch):
    asked = []
    model = get_model("resnet18")

    def downloaded(url, **_):
        asked.append(url)
        return model.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", downloaded)
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        features = base_network("resnet18", 10, weights=weights).features
        loaded = dict(features.named_parameters())
        assert len(loaded) == len(list(model.parameters())) - 2
        for name, parameter in model.named_parameters():
            if not name.startswith("fc."):
                assert torch.equal(loaded[f"layers.{name}"], parameter)
    assert asked == [get_model_weights("resnet18").IMAGENET1K_V1.url] * 2


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded(error, monkeypatch):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", Mock(side_effect=error))
    url = get_model_weights("resnet18").IMAGENET1K_V1.url
    message = f"weights IMAGENET1K_V1 of resnet18 cannot be downloaded: .*{error.args[0]}.* Get {url} elsewhere"
    with pytest.raises(ConnectionError, match=message):
        torchvision_backbone("resnet18", "DEFAULT")


def test_files_of_other_classifiers_without_one_and_without_batch_counts(tmp_path):
    path = tmp_path / "weights.pt"
    model = get_model("resnet18", num_classes=7)
    for state in (
        model.state_dict(),
        {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")},
        {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")},
    ):
        torch.save(state, path)
        features = torchvision_backbone("resnet18", path)
        assert torch.equal(features.get_parameter("layers.layer4.1.conv2.weight"), model.layer4[1].conv2.weight)


def test_a_file_in_the_home_folder(monkeypatch, tmp_path):
    model = get_model("resnet18")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    features = torchvision_backbone("resnet18", "~/weights.pt")  # as in a recipe, which no shell reads
    assert torch.equal(features.get_parameter("layers.conv1.weight"), model.conv1.weight)


def test_files_with_the_old_names_of_densenet(tmp_path):
    model = get_model("densenet121")
    old = OrderedDict(
        (re.sub(r"(denselayer.*)(norm|conv)([12])", r"\1\2.\3", key), value)
        for key, value in model.state_dict().items()
    )
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "weights.pth")
    features = torchvision_backbone("densenet121", tmp_path / "weights.pth")
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(features.get_parameter(f"layers.{key}"), model.get_parameter(key))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.weight"), r"missing: conv1\.weight\."),
        (lambda state: state.update({"stem": torch.zeros(1)}), r"unknown: stem\."),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), r"another shape: conv1\.weight\."),
        (lambda state: [state.update({f"module.{key}": state.pop(key)}) for key in list(state)], "missing: .* more; "),
        (
            lambda state: state.update({"state_dict": {key: state.pop(key) for key in list(state)}, "epoch": 3}),
            r"missing: .* more; unknown: state_dict, epoch\. Write it .* from the network itself",
        ),
    ],
)
def test_files_that_do_not_fit(change, message, tmp_path):
    state = get_model("resnet18").state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"weights\.pth must hold a state_dict of this network.*{message}"):
        torchvision_backbone("resnet18", tmp_path / "weights.pth")


def test_files_that_are_no_state_dict(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(get_model("resnet18"), path)  # pickled code
    with pytest.raises(ValueError, match=r"has no state_dict; write one by torch\.save"):
        torchvision_backbone("resnet18", path)
    torch.save(get_model("resnet18").state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", whole[:5000], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="has no state_dict"):
            torchvision_backbone("resnet18", path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="must hold a state_dict, names to tensors; got list"):
        torchvision_backbone("resnet18", path)


def test_weights_that_there_are_not():
    with pytest.raises(ValueError, match=r"a file or one of IMAGENET1K_V1, .*DEFAULT; there is no file 'IMAGENET'"):
        torchvision_backbone("resnet50", "IMAGENET")


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet5O", "resnet50"), ("VGG16", "vgg16"), ("efficientnet-b0", "_b0")]
)
def test_names_that_there_are_not(name, nearest):
    with pytest.raises(ValueError, match=rf"no network '{name}' in torchvision .*; the nearest are .*{nearest}"):
        base_network(name, 10)


def test_a_network_without_maps(monkeypatch):
    # The same layers, of which making takes seconds, but one block of 12.
    small = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    monkeypatch.setattr("reference.model.backbones.get_model", lambda name, weights: small)
    with pytest.raises(ValueError, match=r"vit_b_16 has no feature map \(B, N, H, W\) at its end"):
        torchvision_backbone("vit_b_16")


@pytest.mark.parametrize(("num_classes", "channels_per_class"), [(200, 3), (102, 3), (7, 5), (64, 4)])
def test_widened_vgg(num_classes, channels_per_class):
    channels = num_classes * channels_per_class
    with torch.device("meta"):
        network = base_network("vgg16_bn", num_classes, channels_per_class=channels_per_class).eval()
    assert network.groups == ChannelGroups.uniform(num_classes, channels_per_class)
    assert network.features(meta_images(224)).shape == (2, channels, 14, 14)
    assert network(meta_images(224)).shape == (2, num_classes)
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, channels, 512, 512, channels]
    assert num_parameters(network.features) == sum(
        convolution(widths[i], widths[i + 1], kernel=3) + 3 * widths[i + 1] for i in range(13)
    )
    inputs = channels * 7 * 7
    assert num_parameters(network.head) == (2 * inputs + linear(inputs, 512) + 2 * 512 + linear(512, num_classes))


@pytest.mark.parametrize(("num_classes", "channels_per_class"), [(200, 3), (102, 3), (7, 5), (64, 4)])
def test_widened_resnet(num_classes, channels_per_class):
    channels = num_classes * channels_per_class
    with torch.device("meta"):
        network = base_network("resnet18", num_classes, channels_per_class=channels_per_class).eval()
    assert network.groups == ChannelGroups.uniform(num_classes, channels_per_class)
    assert network.features(meta_images(224)).shape == (2, channels, 14, 14)
    assert network(meta_images(224)).shape == (2, num_classes)

    def last_stage(width: int) -> int:
        return convolution(256, width, 3) + 3 * convolution(width, width, 3) + convolution(256, width, 1) + 10 * width

    published = get_model_weights("resnet18").DEFAULT.meta["num_params"] - linear(512, 1000)
    assert num_parameters(network.features) == published - last_stage(512) + last_stage(channels)
    assert num_parameters(network.head) == 2 * channels + linear(channels, 512) + 2 * 512 + linear(512, num_classes)


def test_initial_weights_of_the_widened_stage_are_those_of_the_others():
    layers = widened_backbone("resnet18", 60).layers
    for name in ("layer3.1.conv2", "layer4.0.conv1", "layer4.1.conv2"):
        weight = layers.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx((2 / (9 * len(weight))) ** 0.5, rel=0.02)


def test_the_head_of_vgg_is_fed_by_max_pooling():
    features = torch.randn(2, 600, 14, 14)
    pooling = base_network("vgg16_bn", 200, channels_per_class=3).pooling
    assert torch.equal(pooling(features), max_pool2d(features, 2).flatten(1))


def test_bilinear_pooling_is_the_formula():
    features = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    outer = torch.einsum("bihw,bjhw->bij", features, features) / 24
    roots = torch.sign(outer) * torch.sqrt(torch.abs(outer) + 1e-5)
    expected = roots / roots.square().sum(dim=(1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(BilinearPooling()(features), expected.flatten(1))


def test_bilinear_pooling_has_a_gradient_where_channels_are_dead():
    features = torch.randn(2, 5, 4, 6).relu()
    features[0, 1] = 0
    features[1] = 0
    features.requires_grad_()
    pooled = BilinearPooling()(features)
    pooled.square().mul(torch.arange(25)).sum().backward()
    assert pooled[1].count_nonzero() == 0
    assert features.grad.isfinite().all()
    assert features.grad[0].count_nonzero() > 0


def test_bilinear_pooling_stays_in_the_range_of_float16():
    features = torch.full((1, 3, 28, 28), 200.0, dtype=torch.float16)
    torch.testing.assert_close(BilinearPooling()(features), torch.full((1, 9), 1 / 3, dtype=torch.float16))


NETWORKS = {
    "vgg16": {"backbone": "vgg16"},
    "bcnn": {"backbone": "bcnn"},
    "resnet18": {"backbone": "resnet18"},
    "resnet50": {"backbone": "resnet50"},
    "vgg16_bn, widened": {"backbone": "vgg16_bn", "channels_per_class": 3},
    "resnet18, widened": {"backbone": "resnet18", "channels_per_class": 3},
}


@pytest.mark.parametrize("arguments", NETWORKS.values(), ids=NETWORKS)
def test_a_step_of_training(arguments):
    torch.manual_seed(0)
    network = base_network(**arguments, num_classes=20, loss=MCLoss)
    optimizer = torch.optim.SGD(parameter_groups(network, backbone=0.01, head=0.1))
    images, targets = torch.randn(4, 3, 64, 64), torch.tensor([0, 7, 7, 19])
    logits, ce_loss, mc = network(images, targets)
    assert logits.shape == (4, 20)
    of_backbone = list(network.features.parameters())
    for stream in (ce_loss, mc.discriminality, mc.diversity):
        gradients = torch.autograd.grad(stream, of_backbone, retain_graph=True)
        # The first convolution has every other layer behind it.
        assert gradients[0].isfinite().all()
        assert gradients[0].count_nonzero() > 0
    (ce_loss + mc.loss).backward()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer.step()
    for name, parameter in network.named_parameters():
        rate = 0.01 if name.startswith("features.") else 0.1
        torch.testing.assert_close(parameter, before[name] - rate * parameter.grad)


def test_b_cnn_gives_the_features_of_vgg_to_the_mc_loss():
    with torch.device("meta"):
        network = base_network("bcnn", 200, loss=MCLoss).eval()
    assert network.groups == ChannelGroups.split(512, 200)
    assert network.extract(meta_images(448)).shape == (2, 512, 28, 28)
    assert network(meta_images(448)).shape == (2, 200)
    assert num_parameters(network.features) == 14_714_688  # of VGG16 without batch norm
    assert num_parameters(network.head) == linear(512 * 512, 200)


def test_the_loss_is_given_made_or_left_out():
    extractor = nn.Conv2d(3, 8, 3)
    groups = ChannelGroups([2, 3, 3])
    given = MCLoss(groups, weights=(0.5, 3))
    assert base_network(extractor, 3, loss=given).loss is given
    made = base_network(extractor, 3, loss=lambda groups: MCLoss(groups, drop=1)).loss
    assert made.groups == groups
    assert made.drop == 1
    assert base_network(extractor, 3).loss is None
    with pytest.raises(ValueError, match="same groups"):
        base_network(extractor, 4, loss=given)


class Extractor(nn.Module):
    """An extractor of which one batch norm is frozen."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.frozen = nn.BatchNorm2d(6).eval()
        self.looks = []
        self.last_mode = None

    def train(self, mode=True):
        self.last_mode = mode
        return super().train(mode)

    def forward(self, images):
        self.looks.append((self.training, torch.is_grad_enabled()))
        return self.frozen(self.norm(self.convolution(images)))


def test_a_module_is_only_looked_at():
    extractor = Extractor()
    before = {key: value.clone() for key, value in extractor.state_dict().items()}
    network = base_network(extractor, 4, image_shape=(1, 8, 9))
    assert network.features is extractor
    assert network.groups == ChannelGroups([1, 1, 2, 2])
    assert extractor.looks == [(False, False)]
    assert extractor.last_mode is True
    assert all(torch.equal(value, before[key]) for key, value in extractor.state_dict().items())
    assert [extractor.training, extractor.norm.training, extractor.frozen.training] == [True, True, False]


def test_a_module_that_does_not_take_the_image_is_left_as_it_was():
    extractor = Extractor()
    with pytest.raises(
        ValueError, match=r"cannot take an image of shape \(1, 3, 224, 224\).*image_shape=\(1, 28, 28\)"
    ):
        base_network(extractor, 4)
    assert [extractor.training, extractor.norm.training, extractor.frozen.training] == [True, True, False]


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten()), r"\(1, 295704\)"),
        (lambda: get_model("googlenet", aux_logits=True, init_weights=False), r"\(1, 1000\)"),
        (lambda: create_feature_extractor(get_model("resnet18"), ["layer4"]), "dict"),
    ],
    ids=["flat", "classifier", "dict"],
)
def test_a_module_without_a_map(make, given):
    with pytest.raises(ValueError, match=rf"must give a feature map \(B, N, H, W\).* it gave {given}"):
        base_network(make(), 4)


def test_parameters_are_divided_between_backbone_and_the_new():
    network = base_network(nn.Conv2d(3, 8, 3), 3, loss=MCLoss)
    backbone, head = parameter_groups(network, backbone=0.01, head=0.1)
    assert backbone["params"] == [network.features.weight, network.features.bias]
    assert {id(parameter) for parameter in head["params"]} == {id(parameter) for parameter in network.head.parameters()}
    assert (backbone["lr"], head["lr"]) == (0.01, 0.1)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "bcnn"])
def test_networks_that_cannot_be_widened(name):
    with pytest.raises(ValueError, match=rf"only resnet18 and vgg16_bn can be widened; got '{name}'"):
        base_network(name, 10, channels_per_class=3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone": "resnet18", "weights": "DEFAULT"},
        {"backbone": nn.Conv2d(3, 30, 3)},
    ],
)
def test_widening_goes_with_no_weights_and_no_module(arguments):
    with pytest.raises(ValueError, match="channels_per_class widens a network by name, with random weights"):
        base_network(**arguments, num_classes=10, channels_per_class=3)


def test_weights_of_a_module():
    with pytest.raises(ValueError, match="weights are for a backbone with a name"):
        base_network(nn.Conv2d(3, 8, 3), 3, weights="DEFAULT")
