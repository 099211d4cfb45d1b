"""`sample_channel_mask`: how many channels are dropped, and that every choice of them is as likely as any other."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_triton import ChannelGroups, attention, channel_pool, mc_loss, sample_channel_mask
from mcl_triton.tracing import once_per_device

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RAGGED = ChannelGroups([3, 1, 3, 7, 1, 2, 10])
DROPS = {
    "half": ("half", [1, 0, 1, 3, 0, 1, 5]),
    "none": (0, [0] * 7),
    "fraction": (0.4, [1, 0, 1, 2, 0, 0, 4]),
    "large fraction": (0.99, [2, 0, 2, 6, 0, 1, 9]),
    "fraction 0": (0.0, [0] * 7),
    "one number per class": ([2, 0, 1, 6, 0, 1, 9], [2, 0, 1, 6, 0, 1, 9]),
    "tuple": ((0, 0, 0, 0, 0, 0, 1), [0, 0, 0, 0, 0, 0, 1]),
}


def zeros_in_each_group(mask, groups):
    return [
        [int((part == 0).sum()) for part in row.split(list(groups.sizes))] for row in mask.reshape(-1, mask.shape[-1])
    ]


@pytest.mark.parametrize("batch_size", [None, 1, 5])
@pytest.mark.parametrize("drop", DROPS)
def test_number_of_zeros_in_every_group(drop, batch_size):
    drop, expected = DROPS[drop]
    for _ in range(10):
        mask = sample_channel_mask(RAGGED, drop=drop, batch_size=batch_size)
        assert mask.shape == ((20 + 7,) if batch_size is None else (batch_size, 27))
        assert set(mask.unique().tolist()) <= {0, 1}
        assert zeros_in_each_group(mask, RAGGED) == [expected] * (batch_size or 1)


@pytest.mark.parametrize(
    ("size", "drop", "expected"),
    [
        (3, 1, 1),
        (10, 4, 4),
        (11, 4, 4),
        (9, 4, 4),
        (2, 1, 1),
        (1, "half", 0),
        (1, 0.9, 0),
        (1, 0, 0),
        (40, 39, 39),
        (100, 0.29, 29),
        (100, 0.57, 57),
        (10, 0.4, 4),
        (10, 0.7, 7),
        (3, 1 / 3, 0),
        (1000, 0.001, 1),
        (50, 0.1, 5),
    ],
)
def test_numbers_of_published_codes(size, drop, expected):
    """A fraction is the decimal that was written: 0.29 of 100 is 29, though 0.29 * 100 < 29 in binary."""
    groups = ChannelGroups.uniform(6, size)
    assert zeros_in_each_group(sample_channel_mask(groups, drop=drop), groups) == [[expected] * 6]


def test_equal_numbers_of_other_types_are_told_apart():
    """1 is one channel; 1.0 is an error; 0 and 0.0 are none. Tables made for one must not serve the other."""
    groups = ChannelGroups([2, 2])
    assert zeros_in_each_group(sample_channel_mask(groups, drop=1), groups) == [[1, 1]]
    with pytest.raises(ValueError, match=r"fraction 1\.0"):
        sample_channel_mask(groups, drop=1.0)


def test_fraction_of_a_subclass():
    """NumPy's float64 is a float whose repr is no decimal."""

    class Float64(float):
        def __repr__(self):
            return f"np.float64({float(self)})"

    groups = ChannelGroups([10, 100])
    assert zeros_in_each_group(sample_channel_mask(groups, drop=Float64(0.29)), groups) == [[2, 29]]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_random_groups(sizes, data):
    drop = [data.draw(st.integers(0, size - 1)) for size in sizes]
    groups = ChannelGroups(sizes)
    mask = sample_channel_mask(groups, drop=drop, batch_size=3)
    assert zeros_in_each_group(mask, groups) == [drop] * 3


# Uniform and independent. The seeds are fixed, so these pass always or never; the limits are those that chance alone
# would exceed once in a thousand seeds.

CHI_SQUARE = {1: 10.83, 3: 16.27, 5: 20.52, 6: 22.46, 9: 27.88, 19: 43.82, 35: 66.62}


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def draws(groups, number, **options):
    generator = torch.Generator().manual_seed(7)
    return sample_channel_mask(groups, batch_size=number, generator=generator, **options)


@pytest.mark.parametrize("dropped", [1, 3, 6])
def test_uniform_over_channels(dropped):
    mask = draws(ChannelGroups([2, 7, 3]), 7000, drop=[1, dropped, 1])[:, 2:9]
    chance = dropped / 7
    counts = (mask == 0).sum(dim=0).tolist()
    # Counts of a draw without replacement vary less than those of independent draws, by this factor.
    statistic = chi_square(counts, 7000 * chance) / (1 - chance) * 6 / 7
    assert statistic < CHI_SQUARE[6]
    assert statistic > 0.1  # more even than chance is no chance either


@pytest.mark.parametrize(("size", "dropped", "subsets"), [(4, 2, 6), (6, 3, 20), (10, 1, 10), (2, 1, 2)])
def test_uniform_over_subsets(size, dropped, subsets):
    mask = draws(ChannelGroups([3, size, 2]), 500 * subsets, drop=[1, dropped, 0])[:, 3 : 3 + size]
    counts = Counter(tuple(row) for row in mask.tolist())
    assert set(counts) == {
        tuple(0.0 if channel in subset else 1.0 for channel in range(size))
        for subset in itertools.combinations(range(size), dropped)
    }
    assert chi_square(counts.values(), 500) < CHI_SQUARE[subsets - 1]


def test_independent_between_classes():
    mask = draws(ChannelGroups([4, 4]), 3600)
    pairs = Counter((tuple(row[:4]), tuple(row[4:])) for row in mask.tolist())
    assert len(pairs) == 36
    assert chi_square(pairs.values(), 100) < CHI_SQUARE[35]


def test_independent_between_samples():
    rows = map(tuple, draws(ChannelGroups([4]), 3601).tolist())
    pairs = Counter(itertools.pairwise(rows))
    assert len(pairs) == 36
    assert chi_square(pairs.values(), 100) < CHI_SQUARE[35]


def test_independent_between_calls():
    generator = torch.Generator().manual_seed(3)
    drawn = [tuple(sample_channel_mask(ChannelGroups([4]), generator=generator).tolist()) for _ in range(1081)]
    pairs = Counter(itertools.pairwise(drawn))
    assert len(pairs) == 36
    assert chi_square(pairs.values(), 30) < CHI_SQUARE[35]


def test_no_two_masks_of_many_channels_are_alike():
    groups = ChannelGroups.uniform(200, 3)
    calls = [tuple(sample_channel_mask(groups).tolist()) for _ in range(20)]
    rows = [tuple(row) for row in sample_channel_mask(groups, batch_size=20).tolist()]
    assert len({*calls, *rows}) == 40


# Reproducible


def test_generator_decides_alone():
    first, again, other = (torch.Generator().manual_seed(seed) for seed in (5, 5, 6))
    torch.manual_seed(1)
    masks = [sample_channel_mask(RAGGED, batch_size=4, generator=first) for _ in range(3)]
    torch.manual_seed(2)
    assert all(torch.equal(sample_channel_mask(RAGGED, batch_size=4, generator=again), mask) for mask in masks)
    assert not torch.equal(sample_channel_mask(RAGGED, batch_size=4, generator=other), masks[0])


def test_default_generator():
    state = torch.get_rng_state()
    mask = sample_channel_mask(RAGGED, batch_size=4)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)
    assert torch.equal(sample_channel_mask(RAGGED, batch_size=4), mask)


def test_a_generator_leaves_the_default_one_alone():
    state = torch.get_rng_state()
    sample_channel_mask(RAGGED, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


# Device and dtype


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.int64]
)
def test_dtype(dtype):
    mask = sample_channel_mask(RAGGED, dtype=dtype)
    assert mask.dtype == dtype
    assert zeros_in_each_group(mask, RAGGED) == [DROPS["half"][1]]


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), "meta"])
def test_device(device):
    mask = sample_channel_mask(RAGGED, device=device)
    assert mask.device.type == ("cpu" if device is None else torch.device(device).type)
    assert mask.shape == (27,)
    assert not mask.requires_grad


def test_default_device():
    with torch.device("meta"):
        assert sample_channel_mask(RAGGED).device.type == "meta"
    assert sample_channel_mask(RAGGED).device.type == "cpu"


@pytest.mark.parametrize("by_kernels", [False, True])
def test_a_schedule_of_drops_keeps_few_tables(by_kernels):
    """They are never dropped themselves: a number of its own in every step must not fill the memory."""
    groups, device = ChannelGroups([4, 3, 10]), torch.device("cpu")
    kept = {id(attention._tables(groups, step / 1000, device, by_kernels)) for step in range(1000)}
    assert len(kept) == len({(step * 4 // 1000, step * 3 // 1000, step * 10 // 1000) for step in range(1000)})


def test_no_table_is_ever_made_again():
    """A CUDA graph that was captured with one goes on to read it, however many others are made."""
    table_of = once_per_device(lambda number: torch.tensor([number]))
    first = table_of(0)
    assert [table_of(number).item() for number in range(1, 2000)] == list(range(1, 2000))
    assert table_of(0) is first


def test_a_mask_is_the_callers_own():
    mask = sample_channel_mask(RAGGED, drop=0)
    mask.zero_()
    assert sample_channel_mask(RAGGED, drop=0).all()


# Errors


@pytest.mark.parametrize(
    ("drop", "error", "message"),
    [
        ("third", ValueError, r'"half", an integer, a fraction.*got \'third\''),
        (3, ValueError, r"takes 3 from class 0, which has 3"),
        (1, ValueError, r"takes 1 from class 1, which has 1"),
        (-1, ValueError, r"takes -1 from class 0"),
        (1.0, ValueError, r"fraction in \[0, 1\).*got the fraction 1\.0"),
        (-0.1, ValueError, r"got the fraction -0\.1"),
        (float("nan"), ValueError, r"got the fraction nan"),
        ([1, 0], ValueError, r"one integer per class; got 2 integers for 7 classes"),
        ([1, 0, 1, 7, 0, 1, 5], ValueError, r"takes 7 from class 3, which has 7"),
        (None, TypeError, r"got None"),
        (True, TypeError, r"got True"),
        ([0.5] * 7, TypeError, r"one integer per class; got .0\.5"),
    ],
    ids=str,
)
def test_bad_drop(drop, error, message):
    with pytest.raises(error, match=message):
        sample_channel_mask(RAGGED, drop=drop)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be None or at least 1; got {batch_size}"):
        sample_channel_mask(RAGGED, batch_size=batch_size)


def test_bad_groups():
    with pytest.raises(TypeError, match=r"groups must be a ChannelGroups; got list.*ChannelGroups\(sizes\)"):
        sample_channel_mask([3, 3])


def test_shared_mask_serves_the_whole_batch():
    features = torch.randn(3, 27, 4, 4)
    mask = sample_channel_mask(RAGGED)
    shared, repeated = channel_pool(features, RAGGED, mask), channel_pool(features, RAGGED, mask.expand(3, -1))
    assert torch.equal(shared.scores, repeated.scores)


def test_another_default_device_does_not_reach_arguments_that_have_one():
    """``torch.set_default_device("cuda")`` is common; features on the CPU have to work under it."""
    groups = ChannelGroups([2, 3, 2, 9])
    features = torch.randn(2, 16, 3, 3).relu().requires_grad_()  # with ties
    targets = torch.tensor([0, 3])
    mask = torch.ones(16)
    with torch.device("meta"):
        assert sample_channel_mask(groups, device="cpu").device.type == "cpu"
        loss = mc_loss(features, targets, groups, mask=mask).loss
        loss.backward()
    assert loss.device.type == features.grad.device.type == "cpu"


# The kernel


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize(
    "sizes", [[3] * 200, [2] * 88 + [3] * 112, RAGGED.sizes, [340, 1, 20], [1] * 300, [300]], ids=lambda s: f"{len(s)}"
)
@pytest.mark.parametrize("drop", ["half", 0.3])
def test_both_backends_draw_the_same_mask(drop, sizes, batch_size):
    groups, masks = ChannelGroups(sizes), []
    for backend in ("eager", "triton"):
        generator = torch.Generator(DEVICE).manual_seed(5)
        masks.append(
            sample_channel_mask(
                groups, drop=drop, batch_size=batch_size, generator=generator, device=DEVICE, backend=backend
            )
        )
    assert torch.equal(*masks)


def test_of_equal_keys_the_first_are_dropped():
    """2^40 keys are hardly ever equal; if they are, the number of zeros is right all the same."""
    keys = torch.tensor([[7, 7, 7, 7, 5, 7, 3], [1, 0, 1, 0, 2, 2, 2]], device=DEVICE)
    offsets, dropped = (torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 4, 7], [2, 2]))
    mask = torch.ops.mcl_triton.channel_mask(keys, offsets, dropped, 4, torch.int8)
    assert mask.tolist() == [[0, 0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_kernel_writes_any_dtype(dtype):
    mask = sample_channel_mask(RAGGED, dtype=dtype, device=DEVICE, backend="triton")
    assert mask.dtype == dtype
    assert set(mask.tolist()) == {0, 1}
    assert mask.sum() == RAGGED.num_channels - 11


@pytest.mark.parametrize("dtype", [torch.complex64, "float32", None], ids=str)
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_dtypes_that_are_refused(backend, dtype):
    with pytest.raises(TypeError, match=f"dtype must be a real one.*got {dtype!r}"):
        sample_channel_mask(RAGGED, dtype=dtype, device=DEVICE, backend=backend)


def test_true_is_no_batch_size():
    with pytest.raises(TypeError, match="batch_size must be an integer; got True"):
        sample_channel_mask(RAGGED, batch_size=True)
