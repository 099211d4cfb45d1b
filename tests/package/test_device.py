"""The kernels as a device runs them: compiled, and behind ``backend="auto"``.

Everything is on ``device="cuda"``. Without a GPU `make sanitize` runs this file under ttsem, which executes compiled
code on the CPU and reports accesses past the end of a tensor and races between programs.
"""

import inspect
import sys
from contextlib import nullcontext

import checks
import pytest
import torch
from checks import check_pool, lay_out, make_features, make_mask

from mcl_triton import (
    ChannelGroups,
    MCLoss,
    channel_pool,
    class_scores,
    diversity_scores,
    eager,
    mc_loss,
    sample_channel_mask,
)
from reference.formulas import paper as oracle

jit = pytest.importorskip("triton.runtime.jit")
from mcl_triton.kernels import host, launch  # noqa: E402

IS_SANITIZED = "ttsem" in sys.modules
pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or IS_SANITIZED), reason="needs a GPU, or the sanitizer: make sanitize"
)

both_layouts = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
POOLED = ["whole_maps.forward_kernel", "gradient.backward_kernel"]
LOSS_STEP = ["whole_maps.forward_kernel", "head.head_kernel", "gradient.backward_kernel"]  # the whole loss

RAGGED = [2, 5, 1, 3, 2, 2]
INTERLEAVED = [1, 4, 1, 4, 1, 4, 2]
SEED = 5


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """The compiled kernels that a test has launched, each as "module.name"; plain PyTorch is out of reach."""
    kernels = []
    run_kernel = jit.JITFunction.run

    def note_and_run(kernel, *args, **kwargs):
        kernels.append(f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}")
        return run_kernel(kernel, *args, **kwargs)

    def out_of_reach(*_):
        raise AssertionError("plain PyTorch computes what the kernels should")

    monkeypatch.setattr(jit.JITFunction, "run", note_and_run)
    monkeypatch.setattr(eager, "forward", out_of_reach)
    monkeypatch.setattr(eager, "backward", out_of_reach)
    return kernels


@pytest.fixture(autouse=True)
def launches_are_prepared_anew():
    launch.choose_forward.cache_clear()
    host.forget_launches()
    yield
    launch.choose_forward.cache_clear()
    host.forget_launches()


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device():
    return "cuda"


class Visit(torch.autograd.Function):
    """To the device in the very strides that the features have, gaps included, which `Tensor.to` would close."""

    @staticmethod
    def forward(ctx, features, device):
        memory = features.new_empty(0).set_(features.untyped_storage())
        return memory.to(device).as_strided(features.shape, features.stride(), features.storage_offset())

    @staticmethod
    def backward(ctx, grad):
        return grad.to("cpu"), None


@pytest.fixture(autouse=True)
def pool_on_device(monkeypatch, device):
    """`check_pool` has its features on the CPU, where it also compares; in between they visit the device."""

    def visit(features, groups, mask, **options):
        visitor = Visit.apply(features, device)
        assert visitor.stride() == features.stride()
        results = channel_pool(visitor, groups, None if mask is None else mask.to(device), **options)
        assert all(result.is_cuda for result in results)
        return type(results)(*(result.to("cpu") for result in results))

    monkeypatch.setattr(checks, "channel_pool", visit)


# Against the oracle


@both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(launched, layout, dtype):
    features = lay_out(make_features("signed", (3, sum(RAGGED), 5, 7), dtype), layout)
    check_pool(features, RAGGED, make_mask("per sample", 3, sum(RAGGED)))
    assert launched == POOLED


@both_layouts
@pytest.mark.parametrize("mask", ["none", "shared"])
def test_masks(launched, layout, mask):
    features = lay_out(make_features("signed", (3, sum(RAGGED), 5, 7), torch.float32), layout)
    check_pool(features, RAGGED, make_mask(mask, 3, sum(RAGGED)))
    assert launched == POOLED


@both_layouts
@pytest.mark.parametrize("sizes", [[3] * 6, INTERLEAVED, [1] * 7, [70], [2, 70, 1]], ids=str)
def test_groups(launched, layout, sizes):
    features = lay_out(make_features("signed", (2, sum(sizes), 5, 7), torch.float32), layout)
    check_pool(features, sizes, make_mask("per sample", 2, sum(sizes)))
    assert launched == POOLED


@both_layouts
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (4, 8), (3, 11), (17, 16)], ids=str)
def test_maps(launched, layout, size):
    features = lay_out(make_features("signed", (2, sum(INTERLEAVED), *size), torch.float32), layout)
    check_pool(features, INTERLEAVED)
    assert launched == POOLED


@both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [[3] * 70, [2] * 35 + [3] * 22], ids=["uniform", "split"])
def test_many_classes(launched, layout, dtype, sizes):
    """Several programs to a sample."""
    features = lay_out(make_features("signed", (2, sum(sizes), 3, 3), dtype), layout)
    check_pool(features, sizes)
    assert launched == POOLED


@pytest.mark.parametrize(
    "layout",
    [
        *("rows", "every second channel", "sliced map", "expanded", "transposed map"),
        *("batch last", "rows, channels last"),
    ],
)
def test_layouts(launched, layout):
    features = make_features("signed", (3, sum(RAGGED), 5, 7), torch.float32)
    check_pool(lay_out(features, layout), RAGGED, make_mask("per sample", 3, sum(RAGGED)))
    assert launched == POOLED


@pytest.fixture
def rules(monkeypatch):
    """The launch rules, to be changed."""
    yield monkeypatch
    monkeypatch.undo()
    forget_launches()


def forget_launches():
    launch.choose_forward.cache_clear()
    launch.choose_backward.cache_clear()
    host.forget_launches()


@both_layouts
@pytest.mark.parametrize(("sizes", "size"), [(RAGGED, (19, 31)), ([70, 2], (5, 7))], ids=str)
def test_maps_too_large_for_one_look(launched, rules, layout, sizes, size):
    small = launch.Tile(2, 16, 2, 1)
    rules.setattr(launch, "LARGEST_WHOLE_MAP", 32)
    for name in ("_BLOCK_OF_ROWS", "_BLOCK_OF_COLUMNS", "_STATISTICS_ROWS", "_STATISTICS_COLUMNS"):
        rules.setattr(launch, name, small)
    for name in ("_GRADIENT_ROWS", "_GRADIENT_COLUMNS"):
        rules.setattr(launch, name, {1: small})
    forget_launches()
    features = lay_out(make_features("signed", (2, sum(sizes), *size), torch.float32), layout)
    check_pool(features, sizes, make_mask("per sample", 2, sum(sizes)))
    assert launched == [*(f"position_blocks.{name}_kernel" for name in ("statistics", "forward", "sum")), POOLED[1]]


@both_layouts
@pytest.mark.parametrize("sizes", [[70, 2], [1, 40, 1, 1, 9]], ids=str)
def test_large_groups_in_pieces(launched, rules, layout, sizes):
    rules.setattr(launch, "WORTH_SPLITTING", 0)
    rules.setattr(launch, "ENOUGH_WARPS", 1 << 30)
    rules.setattr(launch, "SHORTEST_PIECE", 16)
    rules.setattr(host, "tables_of", inspect.unwrap(host.tables_of))  # which keeps what it has made
    forget_launches()
    features = lay_out(make_features("signed", (2, sum(sizes), 5, 7), torch.float32), layout)
    check_pool(features, sizes, make_mask("per sample", 2, sum(sizes)))
    assert launched == [POOLED[0], "whole_maps.combine_kernel", POOLED[1]]


@both_layouts
@pytest.mark.parametrize("kind", ["relu", "copies"])
def test_ties(layout, kind):
    features = lay_out(make_features(kind, (2, sum(INTERLEAVED), 5, 7), torch.float32), layout)
    check_pool(features, INTERLEAVED, make_mask("shared", 2, sum(INTERLEAVED)))


@both_layouts
@pytest.mark.parametrize("grads", ["scores", "diversity"])
def test_gradient_of_one_result(layout, grads):
    features = lay_out(make_features("signed", (2, sum(RAGGED), 5, 7), torch.float32), layout)
    check_pool(features, RAGGED, make_mask("shared", 2, sum(RAGGED)), grads=grads)


@both_layouts
@pytest.mark.parametrize("function", [class_scores, diversity_scores])
def test_one_result(launched, layout, function):
    features = lay_out(make_features("signed", (2, sum(RAGGED), 5, 7), torch.float32), layout)
    exact = features.detach().double().contiguous().requires_grad_()
    expected = oracle.channel_pool(exact, RAGGED)[function is diversity_scores]
    leaf = features.to("cuda").detach().requires_grad_()
    found = function(leaf, ChannelGroups(RAGGED))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(expected.shape)
    found.backward(weights.to("cuda"))
    expected.backward(weights.double())
    torch.testing.assert_close(leaf.grad.cpu().double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert launched == POOLED


@both_layouts
def test_without_gradient(launched, layout):
    features = lay_out(make_features("signed", (2, sum(RAGGED), 5, 7), torch.float32), layout)
    with torch.no_grad():
        found = channel_pool(features.to("cuda").requires_grad_(), ChannelGroups(RAGGED))
    for result, expected in zip(found, oracle.channel_pool(features.double(), RAGGED), strict=True):
        torch.testing.assert_close(result.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    assert launched == POOLED[:1]


# The loss


def draw_mask(groups, batch_size=None, backend="auto"):
    """From the same random numbers each time; on the CPU."""
    torch.manual_seed(SEED)
    return sample_channel_mask(groups, batch_size=batch_size, device="cuda", backend=backend).cpu()


@pytest.mark.parametrize("sizes", [RAGGED, [1] * 300, [130, 300]], ids=["ragged", "ones", "large"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_drawn_mask(launched, sizes, batch_size):
    """Both backends make the same mask of the same random numbers."""
    groups = ChannelGroups(sizes)
    by_kernel = draw_mask(groups, batch_size)
    assert launched == ["masks.mask_kernel"]
    assert torch.equal(by_kernel, draw_mask(groups, batch_size, backend="eager"))


@both_layouts
def test_step(launched, layout):
    features = lay_out(make_features("signed", (4, sum(RAGGED), 5, 7), torch.float32), layout)
    targets = torch.tensor([0, 5, 2, 2])
    leaf = features.to("cuda").detach().requires_grad_()
    torch.manual_seed(SEED)
    found = mc_loss(leaf, targets.to("cuda"), ChannelGroups(RAGGED)).loss
    found.backward()
    assert launched == ["masks.mask_kernel", *LOSS_STEP]

    mask = draw_mask(ChannelGroups(RAGGED), backend="eager")
    exact = features.detach().double().contiguous().requires_grad_()
    expected = oracle.official_loss(exact, targets, RAGGED, mask, 1.5, 20.0)
    expected.backward()
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(leaf.grad.cpu().double(), exact.grad, rtol=1e-4, atol=1e-6)


@both_layouts
def test_autocast(launched, layout):
    """The loss is float32 and the same inside and outside."""
    features = lay_out(make_features("signed", (4, sum(RAGGED), 5, 7), torch.bfloat16), layout)
    targets = torch.tensor([0, 5, 2, 2]).to("cuda")
    module = MCLoss(ChannelGroups(RAGGED), drop=0).to("cuda")
    losses, gradients = [], []
    for enabled in (True, False):
        leaf = features.to("cuda").detach().requires_grad_()
        with torch.autocast("cuda", dtype=torch.float16, enabled=enabled):
            loss = module(leaf, targets).loss
        loss.backward()
        losses.append(loss)
        gradients.append(leaf.grad)
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
    assert launched == 2 * LOSS_STEP


@both_layouts
def test_kernels_are_launched_on_the_device_of_the_features(monkeypatch, launched, layout):
    """Which need not be the current one: each launch enters it."""
    entered = []

    def guard(device):
        entered.append((len(launched), torch.device(device).type))
        return nullcontext()

    features = lay_out(make_features("signed", (2, sum(RAGGED), 5, 7), torch.float32), layout)
    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    check_pool(features, RAGGED)
    # In backward the sanitizer says "cpu" of the same features.
    assert entered == ([(0, "cuda")] if IS_SANITIZED else [(0, "cuda"), (1, "cuda")])
    assert launched == POOLED


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("device", ["cuda:1"])
@both_layouts
def test_a_device_that_is_not_the_current_one(layout, device):
    assert torch.cuda.current_device() == 0
    features = lay_out(make_features("signed", (2, sum(RAGGED), 5, 7), torch.float32), layout)
    check_pool(features, RAGGED, make_mask("shared", 2, sum(RAGGED)))


# The sanitizer


@pytest.mark.skipif(not IS_SANITIZED, reason="what a wrong launch does to a device is anybody's guess")
@both_layouts
@pytest.mark.parametrize(
    ("more_classes", "more_channels", "report"),
    [
        (1, 0, "(reads|writes) .* past the end of the tensor passed as `(offsets|scores)`"),
        (0, 1, "writes .* past the end of the tensor passed as `(statistics|winners)`"),
        (0, -1, "program instances .* both touch element .* of `(statistics|winners)`"),
    ],
    ids=["a class too many", "a channel too many", "a channel too few"],
)
def test_the_sanitizer_reports_a_wrong_launch(monkeypatch, layout, more_classes, more_channels, report):
    right = host._sizes

    def wrong(*args):
        sizes = right(*args)
        return {
            **sizes,
            "num_classes": sizes["num_classes"] + more_classes,
            "num_channels": sizes["num_channels"] + more_channels,
            "NUM_CHANNELS": sizes["NUM_CHANNELS"] + more_channels,
        }

    launch.choose_forward.cache_clear()
    host.forget_launches()
    monkeypatch.setattr(host, "_sizes", wrong)
    features = lay_out(make_features("signed", (3, sum(RAGGED), 5, 7), torch.float32), layout)
    with pytest.raises(Exception, match=report):
        channel_pool(features.to("cuda").requires_grad_(), ChannelGroups(RAGGED))
