"""The table of what is known without a GPU, made for one small case."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

from bench import results
from bench.cases import Case
from bench.count import static
from bench.count.launches import Launch, Step
from bench.count.occupancy import occupancy
from mcl_triton import ChannelGroups

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton's compiler and interpreter")

CASE = Case(3, ChannelGroups.uniform(8, 2), 14, torch.bfloat16)
EVERYONE = {f"{name}{suffix}" for name in ("ours, Triton", "official", "plain") for suffix in ("", ", compiled")}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows of the file that the command writes, and what it prints."""
    path = tmp_path_factory.mktemp("static") / "static.csv"
    parser = argparse.ArgumentParser()
    static.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--output", str(path)])
    printed = []
    with (
        patch.object(static, "quick_cases", lambda: [CASE]),
        patch("builtins.print", lambda *parts, **_: printed.extend(map(str, parts))),
    ):
        static.main(arguments)
    return results.read(path), "\n".join(printed)


def select(rows, **wanted):
    """{(provider, mode, device): value} of the rows with these entries."""
    chosen = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    assert len({(row.provider, row.mode, row.device) for row in chosen}) == len(chosen) > 0
    return {(row.provider, row.mode, row.device): row.value for row in chosen}


SOURCES = {
    "traffic": {"counted", "compiled"},
    "launches": {"counted", "compiled"},
    "registers": {"compiled"},
    "stack": {"compiled"},
    "shared": {"compiled"},
    "load width": {"compiled"},
    "store width": {"compiled"},
    "occupancy": {"modelled"},
    "roofline": {"modelled"},
}


def test_each_row_says_how_it_is_known(table):
    rows, _ = table
    assert {row.metric for row in rows} == set(SOURCES)
    for row in rows:
        assert row.source in SOURCES[row.metric], row
        assert row.source != "measured"
        assert any(word in row.device for word in ("counted", "not run", "model")), row
        if row.metric in ("traffic", "launches"):
            assert (row.source == "compiled") == row.provider.endswith(", compiled"), row
        assert row.shape == CASE.shape
        assert row.low == row.value == row.high
        assert row.samples == 1


def test_bytes_and_launches_of_everyone(table):
    rows, _ = table
    for metric in ("traffic", "launches"):
        values = {(provider, mode): value for (provider, mode, _), value in select(rows, metric=metric).items()}
        assert {provider for provider, _ in values} == EVERYONE
        for provider in EVERYONE:
            assert values[provider, "both"] == values[provider, "forward"] + values[provider, "backward"]
            assert values[provider, "both"] >= values["ours, Triton, compiled", "both"]
        launches = metric == "launches"
        assert not launches or [values["ours, Triton", mode] for mode in ("forward", "backward")] == [6, 6]
        assert launches or 3 <= values["ours, Triton", "both"] / CASE.nbytes <= 3.3


def test_rooflines_follow_from_bytes_and_launches(table):
    """On an H200, 4.8 TB/s; a launch costs 3 µs."""
    rows, _ = table
    traffic, launches = (select(rows, metric=metric, mode="both") for metric in ("traffic", "launches"))
    rooflines = {provider: value for (provider, *_), value in select(rows, device="H200 (model)").items()}
    assert set(rooflines) == EVERYONE
    for (provider, mode, device), nbytes in traffic.items():
        seconds = nbytes / 4.8e12 + launches[provider, mode, device] * 3e-6
        assert rooflines[provider] == pytest.approx(1e3 * seconds, rel=1e-5)  # six digits are written


def test_our_kernels(table):
    rows, _ = table
    registers = select(rows, metric="registers")
    names = ["masks.mask", "whole_maps.backward", "whole_maps.forward"]
    assert sorted(provider for provider, *_ in registers) == [f"ours, Triton: {name}" for name in names]
    assert {device for *_, device in registers} == {"sm_90 (compiled, not run)"}
    assert all(16 <= value <= 255 for value in registers.values())
    assert set(select(rows, metric="stack").values()) == {0}
    # 14×14 numbers of two bytes are rows of 392 bytes, a multiple of 8
    assert set(select(rows, metric="load width").values()) == {8}
    assert {mode for _, mode, _ in select(rows, metric="store width")} == {"backward"}
    shared = select(rows, metric="shared")
    for which, value in select(rows, metric="occupancy").items():
        assert value == occupancy("sm_90", int(registers[which]), 1, int(shared[which]))


def test_what_is_printed(table):
    rows, printed = table
    lines = printed.splitlines()
    for provider in EVERYONE:
        (line,) = (line for line in lines if line.strip().startswith(f"{provider} "))
        forward, backward = (
            select(rows, provider=provider, metric="launches", mode=mode) for mode in ("forward", "backward")
        )
        assert f" {sum(forward.values()):.0f} + {sum(backward.values()):.0f} " in line
    assert str(CASE) in printed
    assert "µs and occupancy are modelled, nobody has measured them" in printed
    assert "H100 SXM, model" in printed


def test_the_bytes_of_our_kernels_are_those_of_the_interpreter():
    """Whatever Inductor, or the dispatch mode, makes of them."""
    for names in (("forward_kernel", "backward_kernel"), ("channel_pool", "channel_pool_backward")):
        step = Step([Launch(names[0], 7), Launch("mean", 1)], [Launch("mul", 2), Launch(names[1], 9)])
        count = static.count_of(CASE, "ours, Triton", step, (100, 1000))
        assert count.modes() == {"forward": (101, 2), "backward": (1002, 2), "both": (1103, 4)}


def test_all_cases_are_real_and_in_both_dtypes_and_layouts():
    cases = static.all_cases()
    assert len(cases) == len(set(cases)) == 80
    for case in static.quick_cases():
        assert case in cases
