"""The loss head in one kernel: PyTorch's cross-entropy on the oracle's scores, and what is left to PyTorch.

The kernel runs in Triton's interpreter, or on a GPU.
"""

import pytest
import torch
from checks import INTERLEAVED, make_features, make_mask
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from bench.count.launches import count_launches
from mcl_triton import ChannelGroups, MCLossOutput, mc_loss
from reference.formulas import paper as oracle

host = pytest.importorskip("mcl_triton.kernels.host")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = {"uniform": [3] * 7, "ragged": INTERLEAVED}
CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.5], dtype=torch.float64)
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "all smoothing": {"label_smoothing": 1.0},
    "class weights": {"class_weights": CLASS_WEIGHTS},
    "ignored": {"ignore_index": 3},
    "everything": {"label_smoothing": 0.1, "class_weights": CLASS_WEIGHTS, "ignore_index": 6},
}


def by_formula(features, targets, sizes, mask, convention, weights, **options) -> MCLossOutput:
    """The loss by the oracle's pooling and PyTorch's cross-entropy, in float64."""
    scores, diversity = oracle.channel_pool(features, sizes, mask)
    class_weights = options.pop("class_weights", None)
    options["weight"] = None if class_weights is None else class_weights.double()
    discriminality = cross_entropy(scores, targets, **options)
    first, second = weights
    if convention == "paper":
        loss = first * (discriminality - second * diversity.mean())
    else:
        loss = first * discriminality + second * (1 - (diversity / torch.tensor(sizes)).mean())
    return MCLossOutput(loss, discriminality, diversity.mean(), scores)


def both(sizes, convention="official", weights=(1.5, 20.0), dtype=torch.float64, batch=5, targets=None, **options):
    """Our loss and the formula's, each with its features; that our head's kernel was launched once is asserted."""
    given = make_features("signed", (batch, sum(sizes), 4, 3), dtype)
    targets = torch.arange(batch) * 3 % len(sizes) if targets is None else targets
    mask = make_mask("shared", batch, sum(sizes))
    features, exact = given.to(DEVICE).requires_grad_(), given.double().requires_grad_()
    there = {name: of.to(DEVICE) if isinstance(of, torch.Tensor) else of for name, of in options.items()}
    with count_launches() as launches:
        output = mc_loss(
            features,
            targets.to(DEVICE),
            ChannelGroups(sizes),
            mask=mask.to(DEVICE),
            convention=convention,
            weights=weights,
            backend="triton",
            **there,
        )
    assert [launch.name for launch in launches if "kernel" in launch.name] == ["forward_kernel", "head_kernel"]
    return (features, output), (exact, by_formula(exact, targets.long(), sizes, mask, convention, weights, **options))


def assert_same(ours, theirs, of=lambda output: output.loss, tolerance=1e-12):
    """Outputs, and gradients of a function of them, up to rounding and equal in what is not finite."""
    (features, output), (exact, expected) = ours, theirs
    for name, value, of_formula in zip(output._fields, output, expected, strict=True):
        torch.testing.assert_close(
            value.double().cpu(),
            of_formula,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda m, n=name: n + m,
        )
    gradient, of_formula = (
        torch.autograd.grad(of(each), tensor)[0].double().cpu()
        for each, tensor in ((output, features), (expected, exact))
    )
    assert of_formula.nan_to_num().abs().max() > 1e-6 or not of_formula.any()
    torch.testing.assert_close(gradient, of_formula, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("convention", ["official", "paper"])
@pytest.mark.parametrize("sizes", ["uniform", "ragged"])
def test_cross_entropy(sizes, convention, options):
    assert_same(*both(SIZES[sizes], convention, **options))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes(dtype, options):
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 1e-2}[dtype]  # gradients are rounded to the features' dtype
    assert_same(*both(INTERLEAVED, dtype=dtype, **options), tolerance=tolerance)


@pytest.mark.parametrize("weights", [(0.0, 2.0), (2.0, 0.0), (0.0, 0.0), (1.0, 1.0)], ids=str)
@pytest.mark.parametrize("convention", ["official", "paper"])
def test_weights(convention, weights):
    assert_same(*both(INTERLEAVED, convention, weights))


@pytest.fixture
def small_tiles(monkeypatch):
    """Four programs at most, which take several samples each, and several looks at the classes of one."""
    host.forget_launches()
    monkeypatch.setattr(
        host, "choose_for_head", lambda num_classes: {"TILE_CLASSES": 2, "TILE_SAMPLES": 4, "num_warps": 1}
    )
    yield
    host.forget_launches()


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 4, 5, 9])
def test_loops_over_samples_and_classes(batch, classes, small_tiles):
    class_weights = torch.rand(classes, dtype=torch.float64)
    assert_same(*both([2] * classes, batch=batch, class_weights=class_weights, label_smoothing=0.1))


def test_more_classes_than_a_tile_has():
    assert_same(*both([1] * 1500 + [2], batch=2, class_weights=torch.rand(1501, dtype=torch.float64)))


TARGETS = {
    "int32": torch.tensor([0, 6, 3, 3, 1], dtype=torch.int32),
    "uint8": torch.tensor([0, 6, 3, 3, 1], dtype=torch.uint8),
    "every second": torch.tensor([0, 5, 6, 5, 3, 5, 3, 5, 1, 5])[::2],
    "expanded": torch.tensor([4]).expand(5),
    "one ignored": torch.tensor([0, -100, 3, 3, 1]),
    "one counts": torch.tensor([-100, -100, 3, -100, -100]),
    "all ignored": torch.tensor([-100] * 5),
    "without weight": torch.tensor([2] * 5),
}


@pytest.mark.parametrize("options", ["plain", "everything"])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_targets(targets, options):
    """Where nothing counts, L_dis is NaN as PyTorch's is; the gradient is that of diversity, or NaN as PyTorch's."""
    assert_same(*both(INTERLEAVED, targets=targets, **{**OPTIONS[options], "ignore_index": -100}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64], ids=str)
def test_dtypes_of_class_weights(dtype):
    """Of any strides, too."""
    assert_same(*both(INTERLEAVED, class_weights=CLASS_WEIGHTS.mul(4).to(dtype).repeat(2, 1).t()[:, 0]))


def test_all_ignored_is_nan():
    ((features, output), _) = both(INTERLEAVED, targets=TARGETS["all ignored"])
    assert output.loss.isnan()
    assert output.discriminality.isnan()
    assert torch.autograd.grad(output.loss, features)[0].isfinite().all()


def test_scores_that_are_not_finite():
    for value in (float("inf"), float("-inf"), float("nan")):
        features = make_features("signed", (3, 6, 2, 2), torch.float64)
        features[1, 2] = value
        targets, groups = torch.tensor([1, 0, 2]), ChannelGroups([2, 1, 3])
        output = mc_loss(features.to(DEVICE), targets.to(DEVICE), groups, drop=0, backend="triton")
        expected = by_formula(features, targets, groups.sizes, None, "official", (1.5, 20.0))
        torch.testing.assert_close(MCLossOutput(*(of.cpu() for of in output)), expected, equal_nan=True)


@pytest.mark.parametrize("target", [7, -1, -101, 1 << 40])
def test_targets_out_of_range_fail_an_assertion(target, monkeypatch):
    """On the CPU `mc_loss` looks at them before the kernel does."""
    if torch.cuda.is_available():
        pytest.skip("a failed assertion ends the use of the device by this process")
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    options = interpreter.InterpreterOptions(debug=True)  # as `triton.jit(debug=True)` compiles the kernel
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    targets = torch.tensor([0, 1, target])
    with pytest.raises(Exception, match="a target is out of range"):
        host.loss(
            make_features("signed", (3, 20, 2, 2), torch.float32),
            [of for run in ChannelGroups(INTERLEAVED).runs for of in run],
            None,
            targets,
            None,
            ignore_index=-100,
            label_smoothing=0.0,
            constant=0.0,
            first=1.0,
            second=1.0,
            divides_by_size=True,
            saves_gradient=True,
        )


# Gradients that arrive elsewhere than at the loss alone


ARRIVALS = {
    "loss twice": lambda output: output.loss + output.loss**2,
    "scores": lambda output: (output.scores**2).sum(),
    "discriminality": lambda output: output.discriminality.exp(),
    "diversity": lambda output: -output.diversity,
    "loss and scores": lambda output: 3 * output.loss + output.scores.logsumexp(1).mean(),
    "all": lambda output: output.loss - 2 * output.discriminality + output.diversity**2 + output.scores[1, 2],
}


@pytest.mark.parametrize(
    ("convention", "weights"),
    [("official", (1.5, 20.0)), ("paper", (0.0, 3.0)), ("official", (0.0, 3.0)), ("paper", (2.0, 0.0))],
)
@pytest.mark.parametrize("of", ARRIVALS.values(), ids=ARRIVALS)
def test_gradients_that_arrive_elsewhere(of, convention, weights):
    assert_same(*both(INTERLEAVED, convention, weights, **OPTIONS["everything"]), of, tolerance=1e-11)


def test_losses_of_a_batch_of_gradients():
    (features, output), (exact, expected) = both(INTERLEAVED)
    each = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = torch.autograd.grad(output.loss, features, each.to(DEVICE), is_grads_batched=True)[0]
    (of_one,) = torch.autograd.grad(expected.loss, exact)
    torch.testing.assert_close(found.cpu(), each[:, None, None, None, None] * of_one, rtol=1e-12, atol=1e-13)


def test_gradcheck():
    """Also that no gradient comes of none."""
    features = make_features("signed", (2, 3, 2, 2), torch.float64).to(DEVICE).requires_grad_()
    targets, groups = torch.tensor([1, 0], device=DEVICE), ChannelGroups([2, 1])

    def outputs(features):
        return tuple(mc_loss(features, targets, groups, drop=0, backend="triton", label_smoothing=0.1, weights=(1, 2)))

    torch.autograd.gradcheck(outputs, features)


def test_second_derivatives_raise():
    (features, output), _ = both(INTERLEAVED)
    (gradient,) = torch.autograd.grad(output.loss, features, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(gradient.square().sum(), features)


# What the kernel does not carry


WITHOUT_HEAD = {
    "probabilities": lambda targets: (torch.rand(4, 7, generator=torch.Generator().manual_seed(1)).softmax(1), {}),
    "a criterion": lambda targets: (one_hot(targets, 7).double(), {"criterion": binary_cross_entropy_with_logits}),
}


@pytest.mark.parametrize("make", WITHOUT_HEAD.values(), ids=WITHOUT_HEAD)
def test_what_is_left_to_pytorch(make):
    targets, options = make(torch.tensor([0, 6, 3, 3]))
    given = make_features("signed", (4, 20, 4, 3), torch.float64)
    features, exact = given.to(DEVICE).requires_grad_(), given.clone().requires_grad_()
    there = {name: of.to(DEVICE) if isinstance(of, torch.Tensor) else of for name, of in options.items()}
    with count_launches() as launches:
        output = mc_loss(features, targets.to(DEVICE), ChannelGroups(INTERLEAVED), drop=0, backend="triton", **there)
    assert [launch.name for launch in launches if "kernel" in launch.name] == ["forward_kernel"]
    scores, diversity = oracle.channel_pool(exact, INTERLEAVED)
    criterion = options.pop("criterion", cross_entropy)
    expected = 1.5 * criterion(scores, targets.double() if targets.is_floating_point() else targets, **options)
    expected = expected + 20 * (1 - (diversity / torch.tensor(INTERLEAVED)).mean())
    torch.testing.assert_close(output.loss.cpu(), expected)
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, features)[0].cpu(), torch.autograd.grad(expected, exact)[0]
    )


def test_class_weights_that_require_a_gradient_raise_as_in_pytorch():
    features, targets = torch.rand(2, 20, 2, 2, device=DEVICE), torch.tensor([0, 6], device=DEVICE)
    class_weights = CLASS_WEIGHTS.float().to(DEVICE).requires_grad_()
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        mc_loss(features, targets, ChannelGroups(INTERLEAVED), class_weights=class_weights, backend="triton")


def test_under_vmap_the_results_are_those_of_pytorch():
    features = torch.stack([make_features("signed", (4, 20, 3, 2), torch.float32, seed) for seed in range(2)])
    targets = torch.tensor([0, 6, 3, 3])

    def loss(features):
        return mc_loss(
            features.to(DEVICE), targets.to(DEVICE), ChannelGroups(INTERLEAVED), drop=0, backend="triton"
        ).loss

    with pytest.warns(UserWarning, match="performance drop"):
        found = torch.func.vmap(loss)(features)
    torch.testing.assert_close(found, torch.stack([loss(of) for of in features]))


# The reduction over the batch


def test_the_same_bits_whichever_program_is_last(monkeypatch):
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    if torch.cuda.is_available():
        pytest.skip("a GPU chooses the order of its programs itself")
    builder = interpreter.interpreter_builder
    set_grid_idx = type(builder).set_grid_idx
    found = []
    for order in (
        lambda x, programs: x,
        lambda x, programs: programs - 1 - x,
        lambda x, programs: (x * 7 + 3) % programs,
    ):
        monkeypatch.setattr(
            type(builder),
            "set_grid_idx",
            lambda self, x, y, z, order=order: set_grid_idx(self, order(x, self.grid_dim[0]), y, z),
        )
        (features, output), _ = both(INTERLEAVED, dtype=torch.float32, batch=37, label_smoothing=0.1)
        found.append((*output, torch.autograd.grad(output.loss, features)[0]))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_counter_needs_no_launch_of_its_own():
    """Memory that PyTorch fills with something else on allocation."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, dtype=torch.int32).item() != 0
        assert_same(*both(INTERLEAVED))
        assert_same(*both([70, 2], dtype=torch.float64))
    finally:
        torch.use_deterministic_algorithms(False)
