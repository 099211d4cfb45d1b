"""Launches and bytes that Inductor plans for a GPU, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from bench.cases import Case
from bench.count.compiled import workers
from bench.count.inductor import compiled_step, generated, graphs
from bench.count.launches import CountedLaunch, Step
from bench.providers import official, ours_triton, plain
from mcl_triton import ChannelGroups

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Inductor generates Triton's language"),
]

CASE = Case(4, ChannelGroups.uniform(20, 3), 14)
SIZES = {"uniform": CASE.groups, "two sizes": ChannelGroups.split(50, 20)}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes in which TRITON_INTERPRET is not set."""
    with workers() as pool:
        yield pool


def scaled(x: Tensor) -> Tensor:
    return x * 2 + 1


def in_two_layouts(x: Tensor) -> Tensor:
    return (x.t().contiguous() + 1).sum(dim=0)


def square(x: Tensor) -> Tensor:
    return (x * x).sum(dim=1).sum()


def exponential(x: Tensor) -> Tensor:
    return torch.exp2(x) * 2 + 1


def looped(x: Tensor) -> Tensor:
    return (torch.exp2(x) * 2 + 1).sum(dim=1)


def of_graphs(function, shape, requires_grad=False, instructions=False) -> list[list[CountedLaunch]]:
    example = torch.empty(shape, requires_grad=requires_grad)
    return [generated(graph, instructions) for graph in graphs(function, example)]


def nbytes(launches: list[CountedLaunch]) -> int:
    return sum(launch.nbytes for launch in launches)


def test_an_elementwise_function_is_one_kernel(pool: ProcessPoolExecutor) -> None:
    """It reads and writes 64 · 100 numbers."""
    ((launch,),) = pool.submit(of_graphs, scaled, (64, 100)).result()
    assert launch.nbytes == 2 * 4 * 64 * 100


def test_what_is_fused_is_counted_once(pool: ProcessPoolExecutor) -> None:
    """Transposing, adding and summing is one kernel, which reads all and writes a number for each row."""
    ((launch,),) = pool.submit(of_graphs, in_two_layouts, (64, 100)).result()
    assert launch.nbytes == 4 * (64 * 100 + 64)


def test_forward_and_backward(pool: ProcessPoolExecutor) -> None:
    """Backward reads the argument and one number, and writes the gradient."""
    forward, backward = pool.submit(of_graphs, square, (64, 4000), requires_grad=True).result()
    assert nbytes(forward) >= 4 * 64 * 4000
    assert nbytes(backward) == 4 * (2 * 64 * 4000 + 1)
    assert len(backward) == 1


@pytest.mark.parametrize("shape", [(64, 1024), (640, 1024)])
def test_instructions_of_an_elementwise_function(pool: ProcessPoolExecutor, shape: tuple[int, int]) -> None:
    """By hand: per 32 elements one multiplication with addition, and some for addresses, loads and stores.

    An exponential more is one instruction more, and up to 4 for denormal numbers.
    """
    ((plainly,),), ((exponentially,),) = (
        pool.submit(of_graphs, function, shape, instructions=True).result() for function in (scaled, exponential)
    )
    warps = shape[0] * shape[1] / 32
    assert 1 <= plainly.slots / warps <= 6
    assert 1 <= (exponentially.slots - plainly.slots) / warps <= 5


def test_instructions_of_a_loop(pool: ProcessPoolExecutor) -> None:
    """Twice the columns take nearly twice the instructions: an exponential, two sums and more per number."""
    columns = 16 * 2048
    slots = []
    for times in (1, 2, 3):
        (launches,) = pool.submit(of_graphs, looped, (4096, times * columns), instructions=True).result()
        slots.append(sum(launch.slots for launch in launches))
    assert slots[2] - slots[1] == pytest.approx(slots[1] - slots[0], rel=0.2)
    assert 3 <= (slots[1] - slots[0]) / (4096 * columns / 32) <= 10


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", SIZES)
def test_ours(pool: ProcessPoolExecutor, kind: str, layout: str) -> None:
    """Our kernels and no other; F is read twice, its gradient and what backward needs written, and that read."""
    case = Case(4, SIZES[kind], 14, layout=layout)
    step: Step = pool.submit(compiled_step, ours_triton, case).result()
    assert [launch.name for launch in step.forward] == ["forward_kernel", "head_kernel"]
    assert [launch.name for launch in step.backward] == ["backward_kernel"]
    statistics = 2 * 4 * case.batch * case.groups.num_channels  # two numbers in float32 per map
    winners = case.batch * case.groups.num_classes * 14 * 14  # a byte per class and position
    least = 3 * case.nbytes + 2 * (statistics + winners)
    assert least <= nbytes(step.forward) + nbytes(step.backward) <= 1.02 * least


@pytest.mark.parametrize("loss", [official, plain])
def test_formulas_take_more_of_both(pool: ProcessPoolExecutor, loss) -> None:
    ours, theirs = (pool.submit(compiled_step, which, CASE) for which in (ours_triton, loss))
    assert theirs.result().total > ours.result().total
    # The maximum over a class's channels has to be taken from F in forward, and dF written after zeros in backward.
    assert nbytes(theirs.result().forward) > CASE.nbytes
    assert nbytes(theirs.result().backward) > 4 * CASE.nbytes
