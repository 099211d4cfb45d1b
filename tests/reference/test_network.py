"""The two-stream network: what it returns, and that it takes any extractor, pooling and head."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mcl_triton import ChannelGroups, MCLoss, MCLossOutput
from reference.formulas import paper as oracle
from reference.model.network import MCNetwork, classifier_head, global_max_pooling, small_extractor

GROUPS = ChannelGroups([2, 3, 3])
IMAGES = torch.randn(6, 3, 9, 7, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 2, 1, 0])


def make_network(loss: MCLoss | None = None, groups: ChannelGroups = GROUPS, **parts: nn.Module) -> MCNetwork:
    torch.manual_seed(0)
    return MCNetwork(nn.Conv2d(3, 8, 3, stride=2), groups, loss, **parts)


def test_training_returns_logits_cross_entropy_and_mc_loss():
    network = make_network(MCLoss(GROUPS, drop=0, weights=(0.7, 5)))
    logits, ce_loss, mc = network(IMAGES, TARGETS)
    assert logits.shape == (6, 3)
    torch.testing.assert_close(ce_loss, cross_entropy(logits, TARGETS))
    assert isinstance(mc, MCLossOutput)
    expected = oracle.official_loss(network.features(IMAGES), TARGETS, GROUPS.sizes, None, 0.7, 5)
    torch.testing.assert_close(mc.loss, expected)


def test_evaluation_returns_logits_and_cross_entropy():
    network = make_network(MCLoss(GROUPS)).eval()
    logits, ce_loss = network(IMAGES, TARGETS)
    torch.testing.assert_close(ce_loss, cross_entropy(logits, TARGETS))
    assert torch.equal(logits, network.head(network.features(IMAGES).amax(dim=(2, 3))))


def test_evaluation_without_targets_is_an_ordinary_classifier():
    network = make_network(MCLoss(GROUPS)).eval()
    logits = network(IMAGES)
    assert isinstance(logits, torch.Tensor)
    assert torch.equal(logits, network(IMAGES, TARGETS)[0])


def test_training_without_targets_is_an_error():
    with pytest.raises(ValueError, match=r"no targets; call network\.eval\(\)"):
        make_network(MCLoss(GROUPS))(IMAGES)


def test_without_mc_loss_only_cross_entropy_is_trained():
    network = make_network()
    logits, ce_loss, mc = network(IMAGES, TARGETS)
    assert mc is None
    torch.testing.assert_close(ce_loss, cross_entropy(logits, TARGETS))


def test_both_streams_reach_the_extractor_and_only_one_the_head():
    network = make_network(MCLoss(GROUPS))
    _, ce_loss, mc = network(IMAGES, TARGETS)
    from_mc = torch.autograd.grad(mc.loss, list(network.parameters()), retain_graph=True, allow_unused=True)
    from_ce = torch.autograd.grad(ce_loss, list(network.parameters()))
    of_extractor = len(list(network.features.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in (*from_mc[:of_extractor], from_ce[0]))
    assert all(gradient is None for gradient in from_mc[of_extractor:])


def test_class_probabilities_as_targets():
    probabilities = torch.softmax(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    logits, ce_loss, mc = make_network(MCLoss(GROUPS))(IMAGES, probabilities)
    torch.testing.assert_close(ce_loss, -(probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean())
    assert mc.loss.isfinite()


def test_pooling_and_head_are_parameters():
    pooling = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())  # as in the paper's VGG16: (6, 8, 4, 3) -> (6, 8 * 2 * 1)
    network = make_network(MCLoss(GROUPS), pooling=pooling, head=classifier_head(16, 3, hidden=5)).eval()
    assert torch.equal(network(IMAGES), network.head(pooling(network.features(IMAGES))))
    assert network.head[1].out_features == 5


def test_the_head_is_the_papers():
    head = classifier_head(8, 3)
    assert [type(layer) for layer in head] == [nn.BatchNorm1d, nn.Linear, nn.BatchNorm1d, nn.ELU, nn.Linear]
    assert (head[0].num_features, head[1].out_features, head[-1].out_features) == (8, 512, 3)


def test_global_max_pooling_takes_the_largest_of_each_channel():
    features = torch.randn(2, 8, 4, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(global_max_pooling()(features), features.amax(dim=(2, 3)))


def test_small_extractor():
    features = small_extractor(20)(torch.randn(2, 1, 48, 96))
    assert features.shape == (2, 20, 6, 12)
    assert features.min() == 0


@pytest.mark.parametrize("extractor", [nn.Conv2d(3, 7, 3), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())])
@pytest.mark.parametrize("is_training", [True, False])
def test_an_extractor_that_does_not_fit_the_groups(extractor, is_training):
    network = MCNetwork(extractor, GROUPS, MCLoss(GROUPS)).train(is_training)
    with pytest.raises(ValueError, match=r"must give \(B, 8, H, W\) for .*; got \(6, .*ChannelGroups\.split"):
        network(IMAGES, TARGETS)


def test_a_loss_of_other_groups():
    with pytest.raises(ValueError, match="same groups"):
        make_network(MCLoss(ChannelGroups([3, 3, 2])))


def test_state_moves_between_networks():
    network, other = make_network(MCLoss(GROUPS)), make_network()
    network(IMAGES, TARGETS)  # moves the running statistics
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(IMAGES), network.eval()(IMAGES))
