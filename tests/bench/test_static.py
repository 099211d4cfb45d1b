"""The table of what is known without a GPU, made for one small case."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

from bench import __main__ as bench
from bench import results
from bench.cases import Case
from bench.count import static
from bench.count.instructions import Issue
from bench.count.launches import CountedLaunch, Step
from bench.providers import FORMULAS, OURS
from bench.results import where
from mcl_triton import ChannelGroups

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton's compiler and interpreter")

CASE = Case(3, ChannelGroups.uniform(8, 2), 14, torch.bfloat16, data_set="CUB", network="A network")
EVERYONE = [(one.label, compiled) for one in (OURS["triton"], *FORMULAS) for compiled in (False, True)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows of the file that the command writes, and what it prints."""
    path = tmp_path_factory.mktemp("static") / "static.csv"
    printed = []
    with (
        patch.object(static, "all_cases", lambda: [CASE]),
        patch.object(static, "TARGETS", ["sm_80", "sm_90", "sm_100"]),
        patch("builtins.print", lambda *parts, **_: printed.extend(map(str, parts))),
    ):
        bench.main(["static", "--output", str(path)])
    return results.read(path), "\n".join(printed)


def values(rows, **wanted):
    """{(provider's label, is compiled): value} of the rows with these facts."""
    chosen = where(rows, **wanted)
    keys = [(", ".join(filter(None, (row.provider, row.backend))), row.compiled) for row in chosen.itertuples()]
    assert len(set(keys)) == len(keys) > 0
    return dict(zip(keys, chosen.value, strict=True))


def test_each_row_says_how_it_is_known(table):
    rows, printed = table
    known = {metric: set(of) for metric, of in rows.groupby("metric").known}
    counted = {
        "traffic",
        "launches",
        "issue slots",
        "registers",
        "stack",
        "spills",
        "shared",
        "load width",
        "store width",
    }
    modelled = {"memory time", "issue time", "modelled time"}
    assert known == {metric: {"counted" if metric in counted else "modelled"} for metric in counted | modelled}
    assert set(where(rows, known="modelled").device) == {"H200"}
    assert "nobody has measured these µs" in printed


def test_bytes_and_launches_of_everyone(table):
    rows, printed = table
    for metric in ("traffic", "launches"):
        forward, backward, both = (values(rows, metric=metric, mode=mode) for mode in ("forward", "backward", "both"))
        assert list(both) == sorted(EVERYONE, key=lambda one: one[1])
        for one in EVERYONE:
            assert both[one] == forward[one] + backward[one] >= both["ours, triton", True]
        if metric == "traffic":
            winners = 2 * 3 * 8 * 14 * 14  # one byte per class and position, written and read
            assert 3 <= (both["ours, triton", False] - winners) / CASE.nbytes <= 3.3
        else:
            assert (forward["ours, triton", False], backward["ours, triton", False]) == (2, 1)
    assert str(CASE) in printed


def test_instructions_of_ours_and_of_what_is_compiled(table):
    """A step has those of its two kernels; the formulas in eager PyTorch have none of their own."""
    rows, _ = table
    steps = where(rows, kernel="", metric="issue slots")
    slots = values(steps, mode="both")
    assert set(slots) == {one for one in EVERYONE if one[1] or one[0] == "ours, triton"}
    kernels = where(rows, metric="issue slots", device="sm_90", kernel=["whole_maps.forward", "gradient.backward"])
    assert slots["ours, triton", False] == slots["ours, triton", True] == kernels.value.sum()
    for target in ("sm_80", "sm_100"):
        there = where(rows, metric="issue slots", device=target).value.sum()
        assert 0.7 < there / where(rows, metric="issue slots", device="sm_90").query("kernel != ''").value.sum() < 1.4


def test_times_follow_from_the_counts(table):
    """On an H200: 4.3 TB/s, 4 instructions per clock of 132 SMs at 1.98 GHz, 3 µs per launch."""
    rows, _ = table
    bytes_moved, launches = (values(rows, metric=metric, mode="both") for metric in ("traffic", "launches"))
    slots = values(where(rows, kernel=""), metric="issue slots", mode="both")
    for one, microseconds in values(rows, metric="modelled time", mode="both").items():
        memory, issue = bytes_moved[one] / 4.3e6, slots.get(one, 0) / (4 * 132 * 1980)
        # Each direction takes the larger of its two, but one of them is the larger in both here.
        assert microseconds == pytest.approx(max(memory, issue) + 3 * launches[one], rel=0.2)


def test_the_larger_of_bytes_and_instructions_counts():
    """4.3 GB take 1000 µs, as do 4 · 132 · 1980 · 1000 instructions; 10 launches take 30."""
    slots = 4 * 132 * 1980 * 1000
    for nbytes, issued in ((4_300_000_000, slots // 2), (1_000_000_000, slots)):
        assert static.Amount(nbytes, 10, issued).microseconds()["modelled time"] == pytest.approx(1030)
    assert "issue time" not in static.Amount(1, 1, 0).microseconds()


def test_our_kernels(table):
    rows, printed = table
    kernels = where(rows, device="sm_90")
    kernels = kernels[kernels.kernel != ""]
    assert set(kernels.kernel) == {"masks.mask", "gradient.backward", "whole_maps.forward"}
    assert where(kernels, metric="registers").value.between(16, 255).all()
    assert set(where(kernels, metric="stack").value) == {0}
    # 14×14 numbers of two bytes are rows of 392 bytes, a multiple of 8
    assert set(where(kernels, metric="load width").value) == {8}
    assert set(where(kernels, metric="store width")["mode"]) == {"backward"}
    assert "gradient.backward" in printed


def test_the_bytes_of_our_kernels_are_those_of_the_interpreter():
    """Whatever Inductor, or the dispatch mode, makes of them."""
    step = Step(
        [CountedLaunch("forward_kernel", 7), CountedLaunch("mean", 1)],
        [CountedLaunch("mul", 2), CountedLaunch("backward_kernel", 9)],
    )
    count = static.count_of(CASE, OURS["triton"], step, (100, 1000), (30, 50))
    assert count.modes() == {"forward": (101, 2, 30), "backward": (1002, 2, 50), "both": (1103, 4, 80)}


def test_a_pooling_of_several_launches_counts_once():
    step = Step(
        [CountedLaunch("forward_kernel", 7), CountedLaunch("combine_kernel", 3)], [CountedLaunch("backward_kernel", 9)]
    )
    assert static.count_of(CASE, OURS["triton"], step, (100, 1000), (30, 50)).forward == (100, 2, 30)
    kernels = ("position_blocks.statistics", 3), ("position_blocks.forward", 4), ("gradient.backward", 5)
    issued = [Issue(kernel, 1, 1, Counter({"MUFU": slots})) for kernel, slots in (*kernels, ("masks.mask", 6))]
    assert static.slots_of(issued) == (7, 5)


def test_all_cases_are_real_and_in_both_dtypes_and_layouts():
    cases = static.all_cases()
    assert len(cases) == len(set(cases)) == 80
    assert all(case.network for case in cases)
