"""`MCLoss` is an ordinary module: it trains, saves, copies and moves like any other."""

import copy
import io
import pickle

import pytest
import torch
from checks import INTERLEAVED, make_features, make_mask
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mcl_triton import ChannelGroups, MCLoss, mc_loss, sample_channel_mask

GROUPS = ChannelGroups(INTERLEAVED)
FEATURES = make_features("signed", (4, 20, 5, 4), torch.float32)
TARGETS = torch.tensor([0, 6, 3, 3])


class Classifier(nn.Module):
    """A network as users build it: the loss is a submodule beside the layers."""

    def __init__(self, **options):
        super().__init__()
        self.features = nn.Conv2d(3, 20, 3)
        self.head = nn.Linear(20, 7)
        self.mc_loss = MCLoss(GROUPS, **options)

    def forward(self, images, targets):
        features = self.features(images)
        logits = self.head(features.relu().mean(dim=(2, 3)))
        cross_entropy = nn.functional.cross_entropy(logits, targets)
        return cross_entropy, self.mc_loss(features, targets)


@pytest.mark.parametrize("convention", ["official", "paper"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_training_lowers_the_loss(optimizer, convention):
    torch.manual_seed(0)
    weights = (1.0, 5.0) if convention == "official" else (1.0, 2.0)
    model = Classifier(convention=convention, weights=weights)
    steps = optimizer(model.parameters(), lr=0.05)
    images, targets = torch.randn(14, 3, 7, 7), torch.arange(14) % 7
    history = []
    for _ in range(60):
        cross_entropy, output = model(images, targets)
        steps.zero_grad()
        (cross_entropy + output.loss).backward()
        steps.step()
        history.append([cross_entropy.item(), *(value.item() for value in output[:3])])
    first, last = torch.tensor(history[:5]).mean(0), torch.tensor(history[-5:]).mean(0)
    assert last[0] < first[0]
    assert last[1] < first[1]
    assert last[2] < first[2], "discriminality"
    assert last[3] > first[3], "diversity"


# The same as the function


OPTIONS = {
    "default": {},
    "paper": {"convention": "paper", "weights": (0.3, 2)},
    "drop": {"drop": 0.4},
    "drop list": {"drop": [2, 0, 1, 3, 0, 1, 2]},
    "smoothing": {"label_smoothing": 0.2, "ignore_index": 3},
    "class weights": {"class_weights": torch.arange(1.0, 8)},
    "criterion": {"criterion": nn.MultiMarginLoss(margin=0.5)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_function(options):
    module = MCLoss(GROUPS, generator=torch.Generator().manual_seed(1), **options)
    expected = mc_loss(FEATURES, TARGETS, GROUPS, generator=torch.Generator().manual_seed(1), **options)
    for value, wanted in zip(module(FEATURES, TARGETS), expected, strict=True):
        assert torch.equal(value, wanted)


def test_a_given_mask():
    mask = make_mask("per sample", 4, 20)
    expected = mc_loss(FEATURES, TARGETS, GROUPS, mask=mask).loss
    module = MCLoss(GROUPS)
    assert torch.equal(module(FEATURES, TARGETS, mask).loss, expected)
    assert torch.equal(module.eval()(FEATURES, TARGETS, mask=mask).loss, expected)


def test_a_generator_continues():
    module = MCLoss(GROUPS, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        mask = sample_channel_mask(GROUPS, generator=generator)
        assert torch.equal(module(FEATURES, TARGETS).loss, mc_loss(FEATURES, TARGETS, GROUPS, mask=mask).loss)


# Training and evaluation


@pytest.mark.parametrize("drop", ["half", 0.4, [2, 0, 1, 3, 0, 1, 2]], ids=str)
def test_evaluation_drops_nothing_and_draws_nothing(drop):
    module = MCLoss(GROUPS, drop=drop).eval()
    state = torch.get_rng_state()
    losses = [module(FEATURES, TARGETS).loss for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(loss, mc_loss(FEATURES, TARGETS, GROUPS, drop=0).loss) for loss in losses)


def test_training_and_evaluation_in_turn():
    module = MCLoss(GROUPS)
    random = {module(FEATURES, TARGETS).loss.item() for _ in range(10)}
    fixed = {module.eval()(FEATURES, TARGETS).loss.item() for _ in range(10)}
    again = {module.train()(FEATURES, TARGETS).loss.item() for _ in range(10)}
    assert len(random) > 5
    assert len(fixed) == 1
    assert len(again) > 5


# Saving and copying


def test_state_dict_is_empty():
    for module in (MCLoss(GROUPS), MCLoss(GROUPS, class_weights=torch.ones(7))):
        assert not module.state_dict()
        assert not list(module.parameters())


def test_checkpoints_load_whatever_the_settings():
    with_weights, without = Classifier(class_weights=torch.ones(7)), Classifier(drop=0)
    buffer = io.BytesIO()
    torch.save(with_weights.state_dict(), buffer)
    buffer.seek(0)
    without.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    with_weights.load_state_dict(without.state_dict(), strict=True)
    assert torch.equal(with_weights.head.weight, without.head.weight)


def by_pickle(module):
    return pickle.loads(pickle.dumps(module))


def by_torch_save(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, by_pickle, by_torch_save])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_copies_compute_the_same(options, duplicate):
    module = MCLoss(GROUPS, **options)
    other = duplicate(module)
    outcomes = []
    for each in (module, other):
        torch.manual_seed(5)
        outcomes.append(each(FEATURES, TARGETS))
    for first, second in zip(*outcomes, strict=True):
        assert torch.equal(first, second)
    assert other.groups == module.groups
    assert repr(other) == repr(module)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_torch_save])
def test_copies_with_a_generator_draw_the_same_independently(duplicate):
    """The exponential moving average of a model starts as its deepcopy."""
    module = MCLoss(GROUPS, generator=torch.Generator().manual_seed(3))
    module(FEATURES, TARGETS)
    other = duplicate(module)
    expected = [module(FEATURES, TARGETS).loss for _ in range(3)]
    assert all(torch.equal(other(FEATURES, TARGETS).loss, loss) for loss in expected)


# Moving


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("class_weights", [None, torch.arange(1.0, 8)], ids=["", "class weights"])
def test_surrounding_model_in_another_dtype(dtype, class_weights):
    model = Classifier(class_weights=class_weights).to(dtype)
    cross_entropy, output = model(torch.randn(4, 3, 7, 7, dtype=dtype), TARGETS)
    (cross_entropy + output.loss).backward()
    assert output.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert model.features.weight.grad.dtype == dtype
    assert model.features.weight.grad.isfinite().all()


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.double, nn.Module.float, nn.Module.cpu])
def test_moves_keep_the_loss(move):
    module = MCLoss(GROUPS, class_weights=torch.arange(1.0, 8)).eval()
    expected = module(FEATURES, TARGETS).loss
    torch.testing.assert_close(move(module)(FEATURES, TARGETS).loss, expected)


def test_class_weights_follow_the_module():
    module = MCLoss(GROUPS, class_weights=torch.ones(7))
    assert module.to(torch.float64).class_weights.dtype == torch.float64
    assert module.to("meta").class_weights.device.type == "meta"
    assert dict(module.named_buffers()).keys() == {"class_weights"}


def test_surrounding_model_on_the_meta_device():
    model = Classifier(class_weights=torch.ones(7)).to("meta")
    cross_entropy, output = model(torch.randn(4, 3, 7, 7, device="meta"), TARGETS.to("meta"))
    assert cross_entropy.device.type == output.loss.device.type == "meta"


# What it shows


def test_repr_names_the_settings():
    text = repr(MCLoss(ChannelGroups.split(2048, 200), drop=0.4, convention="paper"))
    assert text.startswith("MCLoss(")
    for part in ("152x10 + 48x11", "drop=0.4", "'paper'", "(0.005, 10.0)"):
        assert part in text
    assert len(repr(MCLoss(ChannelGroups.uniform(1000, 3), drop=[1] * 1000))) < 200


def test_settings_are_attributes():
    module = MCLoss(GROUPS, criterion=binary_cross_entropy_with_logits, weights=[2, 3])
    assert module.groups is GROUPS
    assert module.weights == (2, 3)
    assert module.criterion is binary_cross_entropy_with_logits
    assert MCLoss(GROUPS).weights == (1.5, 20)
    assert MCLoss(GROUPS, convention="paper").weights == (0.005, 10)


def test_a_module_is_found_as_a_criterion():
    """A criterion with weights of its own is a submodule: it moves and is saved with the model."""
    module = MCLoss(GROUPS, criterion=nn.BCEWithLogitsLoss(pos_weight=torch.ones(7)))
    assert [type(child) for child in module.children()] == [nn.BCEWithLogitsLoss]
    assert module.double().criterion.pos_weight.dtype == torch.float64
