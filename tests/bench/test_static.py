"""The table of what is known without a GPU, made for one small case."""

from __future__ import annotations

from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

from bench import __main__ as bench
from bench import results
from bench.cases import Case
from bench.count import static
from bench.count.launches import Launch, Step
from bench.count.model import GPUS, issue_ms, memory_ms, step_ms
from bench.providers import FORMULAS, OURS
from bench.results import where
from mcl_triton import ChannelGroups

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton's compiler and interpreter")

CASE = Case(3, ChannelGroups.uniform(8, 2), 14, torch.bfloat16)
EVERYONE = [(one.label, compiled) for one in (OURS["triton"], *FORMULAS) for compiled in (False, True)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows of the file that the command writes, and what it prints."""
    path = tmp_path_factory.mktemp("static") / "static.csv"
    printed = []
    with (
        patch.object(static, "all_cases", lambda: [CASE]),
        patch.object(static, "TARGETS", ["sm_90"]),
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
    counted = {"traffic", "launches", "registers", "stack", "spills", "shared", "load width", "store width"}
    modelled = {"memory time", "modelled time"}
    assert known == {metric: {"counted" if metric in counted else "modelled"} for metric in counted | modelled}
    assert set(where(rows, known="modelled").device) == set(GPUS)
    assert "nobody has measured these µs" in printed


def test_bytes_and_launches_of_everyone(table):
    rows, printed = table
    for metric in ("traffic", "launches"):
        forward, backward, both = (values(rows, metric=metric, mode=mode) for mode in ("forward", "backward", "both"))
        assert list(both) == sorted(EVERYONE, key=lambda one: one[1])
        for one in EVERYONE:
            assert both[one] == forward[one] + backward[one] >= both["ours, triton", True]
        if metric == "traffic":
            assert 3 <= both["ours, triton", False] / CASE.nbytes <= 3.3
        else:
            assert (forward["ours, triton", False], backward["ours, triton", False]) == (6, 6)
    assert str(CASE) in printed


def test_times_follow_from_the_counts(table):
    """On an H200, 4.8 TB/s; a launch costs 3 µs."""
    rows, _ = table
    traffic, launches = (values(rows, metric=metric, mode="both") for metric in ("traffic", "launches"))
    for one, ms in values(rows, metric="modelled time", device="H200").items():
        assert ms == pytest.approx(1e3 * (traffic[one] / 4.8e12 + launches[one] * 3e-6), rel=1e-5)  # six digits


def test_the_larger_of_bytes_and_instructions_counts():
    """6.7 GB at 3.35 TB/s are 2 ms, as are 4 · 132 · 1.98 · 2e6 instructions; 10 launches of 3 µs are 0.03 ms."""
    h100, slots = GPUS["H100 SXM"], 4 * 132 * 1.98e9 * 2e-3
    assert memory_ms(h100, 6.7e9) == pytest.approx(2)
    assert issue_ms(h100, slots) == pytest.approx(2)
    assert step_ms(h100, 6.7e9, slots / 2, 10) == step_ms(h100, 3e9, slots, 10) == pytest.approx(2.03)


def test_our_kernels(table):
    rows, printed = table
    kernels = where(rows, device="sm_90")
    kernels = kernels[kernels.kernel != ""]
    assert set(kernels.kernel) == {"masks.mask", "whole_maps.backward", "whole_maps.forward"}
    assert where(kernels, metric="registers").value.between(16, 255).all()
    assert set(where(kernels, metric="stack").value) == {0}
    # 14×14 numbers of two bytes are rows of 392 bytes, a multiple of 8
    assert set(where(kernels, metric="load width").value) == {8}
    assert set(where(kernels, metric="store width")["mode"]) == {"backward"}
    assert "whole_maps.backward" in printed


def test_the_bytes_of_our_kernels_are_those_of_the_interpreter():
    """Whatever Inductor, or the dispatch mode, makes of them."""
    for names in (("forward_kernel", "backward_kernel"), ("channel_pool", "channel_pool_backward")):
        step = Step([Launch(names[0], 7), Launch("mean", 1)], [Launch("mul", 2), Launch(names[1], 9)])
        count = static.count_of(CASE, OURS["triton"], step, (100, 1000))
        assert count.modes() == {"forward": (101, 2), "backward": (1002, 2), "both": (1103, 4)}


def test_all_cases_are_real_and_in_both_dtypes_and_layouts():
    cases = static.all_cases()
    assert len(cases) == len(set(cases)) == 80
    assert all(case.network for case in cases)
