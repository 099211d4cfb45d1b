"""Channel-wise attention (CWA): the random mask that leaves each class a part of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from . import operators
from .backend import uses_kernels
from .checks import check_generator, check_groups, check_not_traced
from .groups import ChannelGroups, integer, positive
from .tracing import constant, once_per_device

Drop = str | int | float | Sequence[int]
"""Number of channels of each class that are zeroed: "half", a number, a fraction, or one number per class."""

HashableDrop = str | int | float | tuple[int, ...]

# A channel's sort key is its class number above this many random bits.
_RANDOM_BITS = 40


def sample_channel_mask(
    groups: ChannelGroups,
    *,
    drop: Drop = "half",
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> Tensor:
    """Draw a mask M that zeroes a fixed number of each class's channels, every choice of channels equally likely.

    For groups of one size ξ of which d are dropped, the equivalent plain PyTorch is
    ``(torch.rand(C, ξ).argsort(1).argsort(1) >= d).flatten()``. Nothing waits for the device, once the first call for
    these groups and this drop has made its tables.

    Args:
        groups: which channels belong to which class.
        drop: how many of a class's ξ channels are zeroed: ``"half"`` for ⌊ξ/2⌋ as in the paper, an integer, a
            fraction f in [0, 1) for ⌊f·ξ⌋, or a sequence of C integers. At least one channel of each class is kept.
        batch_size: None for one mask that the whole batch shares, as in the paper; B for one mask a sample.
        generator: source of randomness, on ``device``; None takes the default one of the device.
        device: where the mask is made; None takes the default device.
        dtype: of the mask.
        backend: see [`channel_pool`][mcl_triton.channel_pool]. The mask is the same for each, given the same random
            numbers.

    Returns:
        Ones and zeros, (N,), or (batch_size, N).

    Raises:
        TypeError: ``groups`` is no ChannelGroups, ``generator`` no torch.Generator, ``drop`` is none of the above,
            ``batch_size`` is no integer, or ``dtype`` is no real one.
        ValueError: ``drop`` leaves a class without a channel, or has the wrong length; ``batch_size`` is less than 1;
            the backend is unknown, or not for this device.
        ImportError: ``backend="triton"`` without Triton.
        NotImplementedError: `torch.jit.trace`.

    Source: the paper's section on the discriminality component; how many to drop varies among published codes.
    """
    check_groups(groups)
    check_not_traced("sample_channel_mask")
    # NumPy's, if an integer at all.
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
        batch_size = positive("batch_size", batch_size)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be None or at least 1; got {batch_size}.")
    if not isinstance(dtype, torch.dtype) or dtype.is_complex:
        raise TypeError(f"dtype must be a real one, such as torch.float32, or torch.bool; got {dtype!r}.")
    check_generator(generator)
    device = torch.empty(0, device=device).device  # with its index, whatever was given
    by_kernels = uses_kernels(backend, device)
    return draw_mask(
        groups, hashable_drop(drop), batch_size, generator, device=device, dtype=dtype, by_kernels=by_kernels
    )


def draw_mask(
    groups: ChannelGroups,
    drop: HashableDrop,
    batch_size: int | None,
    generator: torch.Generator | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    by_kernels: bool,
) -> Tensor:
    """`sample_channel_mask` of checked arguments; ``device`` has its index."""
    tables = _tables(groups, drop, device, by_kernels)
    shape = (groups.num_channels,) if batch_size is None else (batch_size, groups.num_channels)
    keys = (
        torch.randint(1 << _RANDOM_BITS, shape, device=device)
        if generator is None  # left out, not None: the overload that takes one knows no dynamic shapes
        else torch.randint(1 << _RANDOM_BITS, shape, device=device, generator=generator)
    )
    if by_kernels:
        return operators.mask_of_keys(keys, *tables, max(size for _, size in groups.runs), dtype)
    first_keys, is_kept = tables
    # Sorted, the channels stand class by class, in random order within a class, whose first ones are dropped.
    order = (keys + first_keys).argsort(-1)
    return torch.empty_like(keys, dtype=dtype).scatter_(-1, order, is_kept.to(dtype).expand(shape))


_EXPECTED = 'drop must be "half", an integer, a fraction in [0, 1), or one integer per class'


def hashable_drop(drop: Drop) -> HashableDrop:
    """``drop`` in plain Python types, a sequence as a tuple; TypeError for what it cannot be."""
    if isinstance(drop, (int, float)):
        drop = constant(drop)
    elif torch.compiler.is_compiling() and getattr(drop, "ndim", False):
        raise TypeError("drop must be a tuple of integers under torch.compile, which cannot read arrays and tensors.")
    plain = drop.tolist() if hasattr(drop, "tolist") else drop  # arrays and tensors
    if isinstance(plain, str):
        return plain
    if isinstance(plain, float):
        return float(plain)  # of a subclass, whose text may be another
    try:
        return tuple(integer(number) for number in plain) if isinstance(plain, Sequence) else integer(plain)
    except TypeError:
        raise TypeError(f"{_EXPECTED}; got {drop!r:.200}.") from None


def dropped_channels(groups: ChannelGroups, drop: HashableDrop) -> tuple[int, ...]:
    """Number of channels that each class loses, with ``drop`` as in `sample_channel_mask`."""
    if isinstance(drop, str):
        if drop != "half":
            raise ValueError(f"{_EXPECTED}; got {drop!r}.")
        return tuple(size // 2 for size in groups.sizes)
    if isinstance(drop, float):
        if not 0 <= drop < 1:
            raise ValueError(f"{_EXPECTED}; got the fraction {drop!r}.")
        fraction = Fraction(repr(drop))  # the decimal as written: 0.29 of 100 channels is 29, not 28
        return tuple(int(fraction * size) for size in groups.sizes)
    dropped = (drop,) * groups.num_classes if isinstance(drop, int) else drop
    if len(dropped) != groups.num_classes:
        raise ValueError(f"{_EXPECTED}; got {len(dropped)} integers for {groups.num_classes} classes.")
    for class_index, (number, size) in enumerate(zip(dropped, groups.sizes, strict=True)):
        if not 0 <= number < size:
            raise ValueError(
                f"drop must leave at least one channel to each class; it takes {number} from class {class_index}, "
                f'which has {size}. drop="half" and fractions adapt to the size of a group.'
            )
    return dropped


@once_per_device
def _tables(groups: ChannelGroups, drop: HashableDrop, device: torch.device, by_kernels: bool) -> tuple[Tensor, Tensor]:
    """The tables of a drop; two that take as many channels share them, so that a schedule does not fill the memory."""
    return (_tables_of_classes if by_kernels else _tables_of_channels)(groups, dropped_channels(groups, drop), device)


@once_per_device
def _tables_of_classes(groups: ChannelGroups, dropped: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """First channel of each class, and N, (C + 1,) int32, and how many channels each class loses, (C,) int32."""
    offsets = torch.tensor((*groups.offsets, groups.num_channels), dtype=torch.int32, device=device)
    return offsets, torch.tensor(dropped, dtype=torch.int32, device=device)


@once_per_device
def _tables_of_channels(groups: ChannelGroups, dropped: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Smallest sort key of each channel, (N,) int64, and which places of the sorted order are kept, (N,) bool."""
    sizes = torch.tensor(groups.sizes, device="cpu")

    def of_each_channel(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device="cpu").repeat_interleave(sizes, output_size=groups.num_channels)

    place_in_group = torch.arange(groups.num_channels, device="cpu") - of_each_channel(groups.offsets)
    is_kept = place_in_group >= of_each_channel(dropped)
    first_keys = of_each_channel(range(groups.num_classes)) << _RANDOM_BITS
    return first_keys.to(device), is_kept.to(device)
