"""Which channels belong to which class."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from itertools import accumulate, groupby
from typing import NoReturn

from .tracing import constant_result, constant_when_compiled, refuse_to_be_traced


@constant_when_compiled
class ChannelGroups:
    """The channels of every class: class ``i`` owns the ``sizes[i]`` channels that follow those of class ``i - 1``.

    Immutable and hashable; two objects with the same sizes are equal. ``torch.compile`` takes one as a constant: make
    it once, outside of what is compiled.

    Args:
        sizes: channels of each class (ξ_i), positive integers, one per class.

    Attributes:
        sizes: channels of each class, a tuple of ``num_classes`` integers.
        offsets: first channel of each class, likewise.
        runs: neighbouring classes of the same size taken together, ``((how many classes, channels of each), ...)``.
        num_classes: number of classes, C.
        num_channels: number of channels, N = Σ ξ_i.
        is_uniform: whether every class has the same number of channels.

    Raises:
        TypeError: ``sizes`` is not an iterable of integers in the order of the classes.
        ValueError: there is no class, or a class has no channel.
        RuntimeError: ``torch.compile`` traces.

    Examples:
        >>> ChannelGroups([3, 3, 2])
        ChannelGroups(2x3 + 1x2)
    """

    __slots__ = ("_hash", "is_uniform", "num_channels", "num_classes", "offsets", "runs", "sizes")

    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    num_classes: int
    num_channels: int
    is_uniform: bool
    _hash: int

    def __init__(self, sizes: Iterable[int]) -> None:
        refuse_to_be_traced("ChannelGroups")
        try:
            if isinstance(sizes, (Mapping, Set)):  # of keys, or in no order
                raise TypeError
            checked = tuple(integer(size) for size in sizes)
        except TypeError:
            raise TypeError(
                f"ChannelGroups takes the number of channels of each class, for example [3, 3, 2]; got {sizes!r:.200}. "
                "For equal groups use ChannelGroups.uniform(num_classes, channels_per_class)."
            ) from None
        if not checked:
            raise ValueError("ChannelGroups needs at least one class; got no sizes.")
        for index, size in enumerate(checked):
            if size < 1:
                raise ValueError(f"every class needs at least one channel; class {index} has size {size}.")
        runs = tuple((len(list(run)), size) for size, run in groupby(checked))
        fields = {
            "sizes": checked,
            "offsets": tuple(accumulate(checked[:-1], initial=0)),
            "runs": runs,
            "num_classes": len(checked),
            "num_channels": sum(checked),
            "is_uniform": len(runs) == 1,
            "_hash": hash(runs),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def uniform(cls, num_classes: int, channels_per_class: int) -> ChannelGroups:
        """The same number of channels for every class: N = C·ξ.

        Args:
            num_classes: C, at least 1.
            channels_per_class: ξ, at least 1.

        Raises:
            TypeError: an argument is not an integer.
            ValueError: an argument is less than 1.
        """
        num_classes = positive("num_classes", num_classes)
        return cls([positive("channels_per_class", channels_per_class)] * num_classes)

    @classmethod
    def split(cls, num_channels: int, num_classes: int) -> ChannelGroups:
        """A backbone's channels as evenly as possible: sizes differ by at most one, the smaller groups come first.

        Args:
            num_channels: N, at least ``num_classes``.
            num_classes: C, at least 1.

        Raises:
            TypeError: an argument is not an integer.
            ValueError: an argument is less than 1, or there are fewer channels than classes.

        Examples:
            >>> ChannelGroups.split(2048, 200)
            ChannelGroups(152x10 + 48x11)
        """
        num_channels = positive("num_channels", num_channels)
        num_classes = positive("num_classes", num_classes)
        if num_channels < num_classes:
            raise ValueError(
                f"cannot split {num_channels} channels among {num_classes} classes: every class needs at least one. "
                "Widen the layer that gives the features (a 1x1 convolution will do) or take another layer."
            )
        size, larger = divmod(num_channels, num_classes)
        return cls([size] * (num_classes - larger) + [size + 1] * larger)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"ChannelGroups is immutable; cannot set {name!r}.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"ChannelGroups is immutable; cannot delete {name!r}.")

    def __eq__(self, other: object) -> bool:
        return self.runs == other.runs if isinstance(other, ChannelGroups) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[ChannelGroups], tuple[tuple[int, ...]]]:
        return type(self), (self.sizes,)

    def __repr__(self) -> str:
        if len(self.runs) <= 4:
            return f"ChannelGroups({' + '.join(f'{classes}x{size}' for classes, size in self.runs)})"
        return (
            f"ChannelGroups({self.num_classes} classes of {min(self.sizes)} to {max(self.sizes)} channels, "
            f"{self.num_channels} in all)"
        )


@constant_result
def flat_runs(groups: ChannelGroups) -> list[int]:
    """`ChannelGroups.runs` in one list, as operators take it: how many classes, how many channels each, and so on."""
    return [number for run in groups.runs for number in run]


def integer(value: object) -> int:
    """``value`` as an int; TypeError for what is no integer, bools included."""
    if isinstance(value, bool):
        raise TypeError("a bool is not taken for an integer")
    return operator.index(value)  # type: ignore[arg-type]


def positive(name: str, value: object) -> int:
    """``value`` as an int of at least 1; TypeError or ValueError, with its name, for anything else."""
    try:
        number = integer(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {value!r:.200}.") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1; got {number}.")
    return number
