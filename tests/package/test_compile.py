"""`torch.compile`, the registration of the operators, and what happens under other transforms of PyTorch."""

import shutil

import numpy as np
import pytest
import torch
from checks import INTERLEAVED, make_features, make_mask
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend

from mcl_triton import ChannelGroups, MCLoss, channel_pool, class_maps, mc_loss, sample_channel_mask
from mcl_triton.kernels import host, tables
from reference.formulas import paper as oracle

GROUPS = ChannelGroups(INTERLEAVED)
TARGETS = torch.tensor([0, 6, 3, 3])
RUNS = [number for run in GROUPS.runs for number in run]
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where they are interpreted


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def signed(batch=4, dtype=torch.float32, groups=GROUPS):
    return make_features("signed", (batch, groups.num_channels, 5, 4), dtype)


def gradient_of(function, features, *arguments):
    features = features.detach().requires_grad_()
    loss = function(features, *arguments).loss
    return loss.detach(), torch.autograd.grad(loss, features)[0]


def counted():
    """A backend that makes forward and backward graphs, runs them as they are, and counts."""
    return CompileCounterWithBackend("aot_eager")


@pytest.mark.parametrize("convention", ["official", "paper"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_function(dtype, layout, convention):
    def loss(features, targets, mask):
        return mc_loss(features, targets, GROUPS, mask=mask, convention=convention)

    features = signed(dtype=dtype).contiguous(memory_format=layout)
    mask = make_mask("per sample", 4, 20)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, expected = (gradient_of(each, features, TARGETS, mask) for each in (compiled, loss))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("make", [lambda: ChannelGroups([3, 4]), lambda: ChannelGroups.uniform(5, 4)])
def test_groups_are_made_before(make):
    """The message names what to do; without ``fullgraph`` the graph breaks, and the loss is right."""

    def loss(features):
        return channel_pool(features, make()).scores

    features = make_features("signed", (2, make().num_channels, 3, 3), torch.float32)
    with pytest.raises(Exception, match="make ChannelGroups before the function"):
        torch.compile(loss, fullgraph=True, backend="eager")(features)
    torch.compiler.reset()
    assert torch.equal(torch.compile(loss, backend="eager")(features), loss(features))


@NEEDS_COMPILER
def test_inductor():
    module = MCLoss(GROUPS, class_weights=torch.arange(1.0, 8), label_smoothing=0.1)
    compiled = torch.compile(module, fullgraph=True)
    mask = make_mask("shared", 4, 20)
    found, expected = (gradient_of(each, signed(), TARGETS, mask) for each in (compiled, module))
    torch.testing.assert_close(found, expected)
    random = {compiled(signed(), TARGETS).loss.item() for _ in range(8)}
    assert len(random) > 4


def test_module_in_a_training_loop():
    """Nothing is compiled again from step to step, every step draws a new mask, and evaluation draws none."""
    counter = counted()
    module = MCLoss(GROUPS)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    losses = set()
    for step in range(6):
        features = make_features("signed", (4, 20, 5, 4), torch.float32, seed=step % 2).requires_grad_()
        loss = compiled(features, TARGETS).loss
        loss.backward()
        assert features.grad.any()
        losses.add(loss.item())
    assert counter.frame_count == 1
    assert len(losses) == 6

    module.eval()
    for _ in range(3):
        torch.testing.assert_close(compiled(signed(), TARGETS).loss, module(signed(), TARGETS).loss)
    assert counter.frame_count == 2


def test_compiled_masks_are_those_of_eager():
    features = signed()
    compiled = torch.compile(lambda f: mc_loss(f, TARGETS, GROUPS).loss, fullgraph=True, backend="aot_eager")
    compiled(features)
    state = torch.get_rng_state()
    found = [compiled(features) for _ in range(3)]
    torch.set_rng_state(state)
    assert found == [mc_loss(features, TARGETS, GROUPS).loss for _ in range(3)]


@pytest.mark.parametrize("targets", ["indices", "probabilities"])
def test_batches_of_any_size(targets):
    """The last batch of an epoch is smaller: one more graph, with a size that may change, serves all others.

    PyTorch 2.9 compiles its own cross-entropy of probabilities anew for every size; there is no help for that here.
    """
    counter, counter_of_cross_entropy = counted(), counted()
    module = MCLoss(GROUPS, drop=0)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    cross_entropy = torch.compile(
        lambda *args: torch.nn.functional.cross_entropy(*args), fullgraph=True, backend=counter_of_cross_entropy
    )
    for batch in (6, 7, 3, 8, 12):
        of_batch = torch.arange(batch) % 7 if targets == "indices" else torch.rand(batch, 7).softmax(dim=1)
        found, expected = (gradient_of(each, signed(batch), of_batch) for each in (compiled, module))
        torch.testing.assert_close(found, expected)
        cross_entropy(torch.zeros(batch, 7, requires_grad=True), of_batch).backward()
    assert counter.frame_count == counter_of_cross_entropy.frame_count
    assert counter.frame_count == 2 or targets == "probabilities"


def test_maps_of_any_size():
    counter = counted()

    def loss(features, targets):
        return mc_loss(features, targets, GROUPS, drop=0)

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for height, width in ((5, 6), (7, 3), (9, 14), (2, 8)):
        features = make_features("signed", (4, 20, height, width), torch.float32)
        found, expected = (gradient_of(each, features, TARGETS) for each in (compiled, loss))
        torch.testing.assert_close(found, expected)
    assert counter.frame_count == 2


def test_a_mask_for_each_sample_of_batches_of_any_size():
    counter = counted()
    compiled = torch.compile(lambda f, m: channel_pool(f, GROUPS, m).scores, fullgraph=True, backend=counter)
    for batch in (6, 7, 3, 8):
        mask = make_mask("per sample", batch, 20)
        assert torch.equal(compiled(signed(batch), mask), channel_pool(signed(batch), GROUPS, mask).scores)
    assert counter.frame_count == 2


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("sizes", [[5] * 4, [3, 1, 7, 9]], ids=["uniform", "ragged"])
def test_groups_are_constants(sizes, backend):
    """Other groups are another graph."""
    counter = counted()

    def loss(features, groups):
        return mc_loss(features, (TARGETS % 2).to(KERNEL_DEVICE), groups, drop=0, backend=backend).loss

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    features = signed().to(KERNEL_DEVICE)
    first, second = ChannelGroups(sizes), ChannelGroups(sizes[::-1] if len(set(sizes)) > 1 else [10, 10])
    for groups in (first, second, first, second, second):
        assert torch.equal(compiled(features, groups), loss(features, groups))
    assert counter.frame_count == 2


def test_sampled_mask():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def draw():
        return sample_channel_mask(GROUPS, batch_size=3)

    masks = [draw() for _ in range(4)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4
    for mask in masks:
        zeros = [[int((part == 0).sum()) for part in row.split(list(GROUPS.sizes))] for row in mask]
        assert zeros == [[1, 0, 1, 3, 0, 1, 1]] * 3


def test_sampled_mask_for_batches_of_any_size():
    counter = counted()
    compiled = torch.compile(
        lambda features: sample_channel_mask(GROUPS, batch_size=len(features)), fullgraph=True, backend=counter
    )
    for batch in (6, 7, 3, 8):
        assert compiled(signed(batch)).sum(dim=1).tolist() == [13] * batch
    assert counter.frame_count == 2


DROPS = {  # of groups of 5, 10 and 11 channels, each with the channels that it takes from them
    "fractions": [(0.5, [2, 5, 5]), (0.6, [3, 6, 6]), (0.7, [3, 7, 7])],
    "numbers": [(1, [1, 1, 1]), (2, [2, 2, 2]), (4, [4, 4, 4])],
    "numbers of NumPy": [(np.int64(3), [3, 3, 3]), (np.int64(1), [1, 1, 1])],
    "lists": [([1, 2, 3], [1, 2, 3]), ([2, 2, 3], [2, 2, 3]), ([0, 2, 4], [0, 2, 4])],
    "kinds": [("half", [2, 5, 5]), (2, [2, 2, 2]), (0.4, [2, 4, 4]), ((1, 2, 3), [1, 2, 3]), (0, [0, 0, 0])],
}


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS)
def test_a_drop_that_changes(drops, backend):
    """Each drop is a graph of its own, which a second round finds again."""
    sizes = [5, 10, 11]
    # Each channel is 1 at one position of its own, so that P times the class score counts the channels that are kept.
    features = torch.cat([torch.eye(size, 11) for size in sizes])[None].to(KERNEL_DEVICE)
    target = torch.tensor([0], device=KERNEL_DEVICE)
    module, counter = MCLoss(ChannelGroups(sizes), backend=backend), counted()
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    counts = []
    for _ in range(2):
        for drop, dropped in drops:
            module.drop = drop
            kept = (compiled(features, target).scores[0] * 11).round()
            assert kept.tolist() == [size - number for size, number in zip(sizes, dropped, strict=True)]
        counts.append(counter.frame_count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("drop", [np.array([1, 2, 3]), torch.tensor([1, 2, 3])], ids=["array", "tensor"])
def test_a_drop_that_the_compiler_cannot_read(drop):
    groups = ChannelGroups([4, 4, 4])
    draw = torch.compile(lambda drop: sample_channel_mask(groups, drop=drop), fullgraph=True)
    with pytest.raises(Unsupported, match=r"drop must be a tuple of integers under torch\.compile"):
        draw(drop)


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("weights", [(1.5, 20.0), (1.5, 10.0), (1, 5), (0.0, 4.0)]),
        ("label_smoothing", [0.0, 0.1, 0.2, 1]),
        ("ignore_index", [-100, 6, 0]),
        ("convention", ["official", "paper"]),
    ],
)
def test_a_setting_that_changes(setting, values):
    module = MCLoss(GROUPS, drop=0)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for value in values:
        setattr(module, setting, value)
        found, expected = (gradient_of(each, signed(), TARGETS) for each in (compiled, module))
        torch.testing.assert_close(found, expected)


def test_autocast_under_compile():
    layer = torch.nn.Conv2d(3, 20, 3)
    module = MCLoss(GROUPS, drop=0)
    images = torch.randn(4, 3, 7, 6)

    def step(images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module(layer(images), TARGETS)

    found = torch.compile(step, fullgraph=True, backend="aot_eager")(images).loss
    torch.testing.assert_close(found, step(images).loss)
    (gradient,) = torch.autograd.grad(found, layer.weight)
    torch.testing.assert_close(gradient, torch.autograd.grad(step(images).loss, layer.weight)[0])


def test_bad_input_is_refused_while_tracing():
    compiled = torch.compile(lambda f, t: mc_loss(f, t, GROUPS), backend="aot_eager")
    with pytest.raises(Exception, match="19 channels"):
        compiled(signed()[:, :19], TARGETS)


# Training with either backend


STEPS = {  # how sizes are compiled, the batches that come, and at how many of them something is compiled
    "one size": (False, [4, 4, 4], 1),
    "a smaller last batch": (None, [4, 4, 3, 5, 4, 2], 2),
    "any size": (True, [4, 5, 2], 1),
}


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize(
    ("compiler", "steps"),
    [
        *(("aot_eager", steps) for steps in STEPS),
        pytest.param("inductor", "a smaller last batch", marks=NEEDS_COMPILER),
    ],
)
def test_training_steps(compiler, steps, backend):
    """Each step has the loss and the gradient of the formula, without a graph break and without compiling again."""
    dynamic, batches, graphs = STEPS[steps]
    device = KERNEL_DEVICE if backend == "triton" else "cpu"
    sizes = [2, 1, 3]
    counter = CompileCounterWithBackend(compiler)
    module = MCLoss(ChannelGroups(sizes), backend=backend)
    compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=dynamic)
    counts = []
    for step, batch in enumerate(batches):
        features = make_features("signed", (batch, 6, 3, 2), torch.float32, seed=step)
        targets, mask = torch.arange(batch) % 3, make_mask("shared", batch, 6, seed=step)
        ours = features.to(device, copy=True).requires_grad_()
        loss = compiled(ours, targets.to(device), mask.to(device)).loss
        loss.backward()
        counts.append(counter.frame_count)
        expected = oracle.official_loss(features.requires_grad_(), targets, sizes, mask, 1.5, 20)
        expected.backward()
        torch.testing.assert_close((loss.cpu(), ours.grad.cpu()), (expected, features.grad))
    assert len(set(counts)) == graphs


@pytest.mark.parametrize(
    ("sizes", "layout", "operators"),
    [
        ([2, 3], torch.channels_last, 0),
        ([7, 8], torch.channels_last, 0),
        ([8, 8], torch.channels_last, 1),
        ([8, 9], torch.channels_last, 1),
        ([8, 9], torch.contiguous_format, 0),
    ],
)
def test_what_a_compiler_gets_on_a_cpu(sizes, layout, operators):
    """The formula, or our operator where that is faster; one loss and one gradient."""
    graphs = []

    def compiler(graph, _):
        graphs.append(graph.print_readable(print_output=False))
        return graph

    compiled = torch.compile(MCLoss(ChannelGroups(sizes)), fullgraph=True, backend=compiler)
    features = make_features("signed", (3, sum(sizes), 3, 2), torch.float32).contiguous(memory_format=layout)
    targets, mask = torch.tensor([0, 1, 1]), make_mask("shared", 3, sum(sizes))
    ours = features.clone().requires_grad_()
    loss = compiled(ours, targets, mask).loss
    loss.backward()
    assert "".join(graphs).count("ops.mcl_triton.") == operators
    assert ours.grad.is_contiguous(memory_format=layout)
    expected = oracle.official_loss(features.requires_grad_(), targets, sizes, mask, 1.5, 20)
    expected.backward()
    torch.testing.assert_close((loss, ours.grad), (expected, features.grad))


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_masks_drawn_in_training_steps(backend):
    device = KERNEL_DEVICE if backend == "triton" else "cpu"
    counter = counted()
    compiled = torch.compile(MCLoss(GROUPS, backend=backend), fullgraph=True, backend=counter)
    features = signed(2).to(device).requires_grad_()
    gradients = set()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(compiled(features, TARGETS[:2].to(device)).loss, features)
        gradients.add(tuple(gradient.flatten().tolist()))
    assert len(gradients) == 3
    assert counter.frame_count == 1


# The operators

OPERATORS = torch.ops.mcl_triton
WANTED = {"both": (True, True), "scores": (True, False), "diversity": (False, True)}
by_either = pytest.mark.parametrize("by_kernels", [False, True], ids=["eager", "kernels"])


@by_either
@pytest.mark.parametrize(
    ("mask", "dtype", "requires_grad", "wanted"),
    [
        ("none", torch.float32, True, "both"),
        ("shared", torch.float64, True, "both"),
        ("per sample", torch.bfloat16, True, "both"),
        ("per sample", torch.float32, False, "both"),
        ("per sample", torch.float32, True, "scores"),
        ("none", torch.float32, True, "diversity"),
        ("none", torch.bfloat16, False, "diversity"),
    ],
)
def test_forward_operator(mask, dtype, requires_grad, wanted, by_kernels):
    device = KERNEL_DEVICE if by_kernels else "cpu"
    mask = make_mask(mask, 2, 20)
    mask = None if mask is None else mask.to(device, torch.promote_types(dtype, torch.float32))
    features = signed(2, dtype).to(device).requires_grad_(requires_grad)
    wants_scores, wants_diversity = WANTED[wanted]
    torch.library.opcheck(
        OPERATORS.channel_pool.default,
        (features, RUNS, mask, wants_scores, wants_diversity, requires_grad, by_kernels),
    )


@by_either
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("given", WANTED)
def test_backward_operator(given, layout, by_kernels):
    device = KERNEL_DEVICE if by_kernels else "cpu"
    features = signed(2).to(device).contiguous(memory_format=layout)
    mask = make_mask("per sample", 2, 20).to(device)
    statistics = OPERATORS.channel_pool(features, RUNS, mask, True, True, True, by_kernels)[2:]
    grads = [torch.randn(2, 7, device=device) if is_wanted else None for is_wanted in WANTED[given]]
    for grad_loss in (None, torch.tensor(0.5, device=device)) if by_kernels else (None,):
        torch.library.opcheck(
            OPERATORS.channel_pool_backward.default, (features, RUNS, mask, *grads, *statistics, grad_loss, by_kernels)
        )


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_loss_operator(dtype, requires_grad):
    features = signed(2, dtype).to(KERNEL_DEVICE).requires_grad_(requires_grad)
    mask = make_mask("shared", 2, 20).to(KERNEL_DEVICE, torch.promote_types(dtype, torch.float32))
    targets, class_weights = torch.tensor([3, 6], device=KERNEL_DEVICE), torch.rand(7, device=KERNEL_DEVICE)
    torch.library.opcheck(
        OPERATORS.mc_loss.default,
        (features, RUNS, mask, targets, class_weights, -100, 0.1, 20.0, 1.5, -20.0, True, requires_grad),
    )


@pytest.mark.parametrize("returns", ["the loss", "everything"])
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=NEEDS_COMPILER)])
def test_loss_of_the_kernels(compiler, returns):
    """A graph that returns all four results gets a gradient of each, zeros but for the loss."""

    def loss(features, mask):
        output = mc_loss(features, TARGETS.to(KERNEL_DEVICE), GROUPS, mask=mask, label_smoothing=0.1, backend="triton")
        return output if returns == "everything" else (output.loss, output.scores.detach())

    features, mask = signed().to(KERNEL_DEVICE).requires_grad_(), make_mask("shared", 4, 20).to(KERNEL_DEVICE)
    found, expected = torch.compile(loss, fullgraph=True, backend=compiler)(features, mask), loss(features, mask)
    torch.testing.assert_close(tuple(found), tuple(expected))
    gradients = [torch.autograd.grad(of[0], features)[0] for of in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradient_of_the_loss_through_vmap_in_a_compiled_function():
    """Inside, nothing says that the features require a gradient."""

    def loss(features):
        return mc_loss(features, TARGETS.to(KERNEL_DEVICE), GROUPS, drop=0, backend="triton").loss

    features = torch.stack([signed(), -signed()]).to(KERNEL_DEVICE).requires_grad_()
    compiled = torch.compile(lambda features: torch.func.vmap(loss)(features), backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(features).sum(), features)
    (expected,) = torch.autograd.grad(sum(map(loss, features)), features)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["shared", "per sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool], ids=str)
def test_mask_operator(dtype, batch):
    keys = torch.randint(1 << 40, (*batch, 6), device=KERNEL_DEVICE)
    offsets, dropped = (
        torch.tensor(numbers, dtype=torch.int32, device=KERNEL_DEVICE) for numbers in ([0, 2, 6], [1, 2])
    )
    torch.library.opcheck(OPERATORS.channel_mask.default, (keys, offsets, dropped, 4, dtype))


# Other transforms


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_the_pooling():
    """Slow, as PyTorch itself warns, but right: one sample set after another."""
    features = torch.stack([signed(), -signed()])
    found = torch.func.vmap(lambda each: channel_pool(each, GROUPS))(features)
    for one, scores, diversity in zip(features, *found, strict=True):
        assert torch.equal(scores, channel_pool(one, GROUPS).scores)
        assert torch.equal(diversity, channel_pool(one, GROUPS).diversity)


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_masks_drawn_through_vmap(backend):
    def draw(_):
        return sample_channel_mask(GROUPS, device=KERNEL_DEVICE, backend=backend)

    masks = torch.func.vmap(draw, randomness="different")(torch.zeros(3))
    assert len({tuple(mask.tolist()) for mask in masks}) == 3
    assert [mask.sum() for mask in masks] == [sum(GROUPS.sizes) - sum(size // 2 for size in GROUPS.sizes)] * 3


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_gradients_through_vmap(backend, is_compiled):
    """Inside, nothing says that the features require a gradient."""

    def scores_and_diversity(features):
        return torch.func.vmap(lambda each: channel_pool(each, GROUPS, backend=backend))(features)

    features = torch.stack([signed(), -signed()]).to(KERNEL_DEVICE).requires_grad_()
    function = torch.compile(scores_and_diversity, backend="aot_eager") if is_compiled else scores_and_diversity
    (found,) = torch.autograd.grad(sum((result**2).sum() for result in function(features)), features)
    pooled = [channel_pool(one, GROUPS, backend="eager") for one in features]
    (expected,) = torch.autograd.grad(sum((result**2).sum() for one in pooled for result in one), features)
    torch.testing.assert_close(found, expected)


def test_tables_are_made_before_the_operator_runs(monkeypatch):
    """Tables made inside would be memory of the CUDA graph that the operator is captured in."""
    groups = ChannelGroups([2, 3, 4])  # of no other test
    is_inside, made_inside = False, []
    run_forward, channel_offsets = host.forward, tables.channel_offsets

    def forward(*arguments, **how):
        nonlocal is_inside
        is_inside = True
        results = run_forward(*arguments, **how)
        is_inside = False
        return results

    def offsets(runs):
        made_inside.append(is_inside)
        return channel_offsets(runs)

    monkeypatch.setattr(host, "forward", forward)
    monkeypatch.setattr(tables, "channel_offsets", offsets)

    def pool(features):
        return channel_pool(features, groups, backend="triton")

    features = signed(groups=groups).to(KERNEL_DEVICE)
    function = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        function(features)
    assert made_inside == [False]


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "by running"])
def test_export(strict, backend):
    """The program that `torch.export` writes down has the loss and the gradient of the formula, for any batch size."""
    module = MCLoss(GROUPS, backend=backend).eval()
    example = [signed(4), TARGETS, make_mask("shared", 4, 20)]
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        module,
        tuple(tensor.to(KERNEL_DEVICE) for tensor in example),
        dynamic_shapes=({0: batch}, {0: batch}, None),
        strict=strict,
    )
    for size in (4, 7):
        features, targets, mask = signed(size), torch.arange(size) % 7, make_mask("shared", 4, 20, seed=size)
        ours = features.to(KERNEL_DEVICE, copy=True).requires_grad_()
        loss = program.module()(ours, targets.to(KERNEL_DEVICE), mask.to(KERNEL_DEVICE)).loss
        loss.backward()
        expected = oracle.official_loss(features.requires_grad_(), targets, GROUPS.sizes, mask, 1.5, 20)
        expected.backward()
        torch.testing.assert_close((loss.detach().cpu(), ours.grad.cpu()), (expected.detach(), features.grad))


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("channel_pool", lambda features, backend: channel_pool(features, GROUPS, backend=backend).scores),
        ("channel_pool", lambda features, backend: mc_loss(features, TARGETS, GROUPS, backend=backend).loss),
        (
            "sample_channel_mask",
            lambda features, backend: sample_channel_mask(GROUPS, device=features.device, backend=backend),
        ),
    ],
    ids=["channel_pool", "mc_loss", "sample_channel_mask"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_jit_trace_is_refused(name, call, backend):
    with pytest.raises(NotImplementedError, match=rf"{name} cannot be traced by torch\.jit\.trace; torch\.export"):
        torch.jit.trace(lambda features: call(features, backend), (signed().to(KERNEL_DEVICE),))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_functional_gradients_raise(transform):
    with pytest.raises(NotImplementedError, match=r"no gradient under torch\.func.*use torch\.autograd\.grad"):
        transform(lambda features: mc_loss(features, TARGETS, GROUPS, drop=0).loss)(signed())


def test_functional_gradients_raise_around_vmap():
    """Inside, features are a batch of what is differentiated."""
    pool = torch.func.vmap(lambda features: channel_pool(features, GROUPS).scores)
    with pytest.raises(NotImplementedError, match=r"no gradient under torch\.func"):
        torch.func.grad(lambda features: pool(features).sum())(signed()[None])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, when forward mode begins
def test_forward_mode_is_not_silently_wrong():
    """There is no forward-mode derivative: a tangent of zero would be a wrong answer."""
    features = signed()
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(lambda f: mc_loss(f, TARGETS, GROUPS, drop=0).loss, (features,), (torch.ones_like(features),))


def test_class_maps_compile():
    classes = torch.tensor([[0, 1], [3, 3], [2, 0], [6, 5]])
    compiled = torch.compile(lambda f, c: class_maps(f, GROUPS, c), backend="aot_eager")
    assert torch.equal(compiled(signed(), classes), class_maps(signed(), GROUPS, classes))
