"""`python -m bench run` checks each provider, measures in turns and takes ratios turn by turn; on a GPU as well."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import __main__ as bench
from bench import results
from bench.cases import Case, all_cases, sweeps
from bench.measure import compare, timing
from bench.measure.memory import peak_bytes
from bench.providers import Inputs, Provider, ours_eager, plain
from bench.results import where
from mcl_triton import ChannelGroups
from reference.training.environment import environment

CPU = torch.device("cpu")
CASE = Case(2, ChannelGroups.uniform(4, 3), 5)
RAGGED = Case(2, ChannelGroups.split(14, 4), 5, torch.bfloat16, "channels_last")
SWEPT = Case(1, CASE.groups, 5)


def doubled(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """A wrong loss, for the command line too."""
    return 2 * plain(features, targets, mask, groups)


@pytest.fixture(autouse=True)
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "quick_cases", lambda: [CASE, RAGGED])
    monkeypatch.setattr(compare, "all_cases", lambda: [CASE, RAGGED])
    monkeypatch.setattr(compare, "sweeps", lambda: {"samples, B": {1: SWEPT}})


def test_the_command_writes_and_prints_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cpu", "--threads", "1", "--turns", "3", "--full", "--output", str(tmp_path)]
    bench.main(["run", *options])
    (path,) = tmp_path.glob("*.csv")
    table = results.read(path)
    table = table[table.provider != "Holocron"]
    assert set(table.provider) == {"ours", "official", "plain", "copy"}
    assert set(where(table, provider="ours").backend) == {"eager"}
    assert set(table.device + ", " + table.threads.astype(str)) == {f"{environment()['cpu']}, 1"}
    for case in (CASE, RAGGED):
        for provider in ("ours", "official", "plain"):
            of = where(table, **case.facts, provider=provider)
            timed = {("wall", mode) for mode in timing.MODES} | {("peak", mode) for mode in timing.MODES}
            ratios = {("ratio", mode) for mode in timing.MODES if provider != "ours"}
            assert set(zip(of.metric, of["mode"], strict=True)) == timed | ratios | {("error", "both")}
            assert (of.value > 0).all()
            assert (of.repeats == of.metric.isin(["wall", "ratio"]).map({True: 3, False: 1})).all()
            assert set(of.known) == {"measured"}
    assert set(where(table, **SWEPT.facts)["mode"]) == {"both"}
    printed = capfd.readouterr().out
    assert "on a CPU the Triton kernels and (without --compiled) torch.compile are left out" in printed
    assert re.search(r"official +both +wall +\d+\.\d+ ms \(\d+\.\d+ to \d+\.\d+\) +\d+\.\d+ x ours", printed)


def test_a_busy_machine_is_noted_in_the_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "usable_cores", lambda: 3)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.1, 0.0, 0.0))
    started = []
    monkeypatch.setattr(compare, "spinning", lambda count: started.append(count) or nullcontext())
    options = ["--device", "cpu", "--threads", "1", "--turns", "1", "--output", str(tmp_path)]
    for more in ([], ["--busy"]):
        bench.main(["run", *options, *more])
    assert started == [0, 0, 3, 3]
    table = results.read_folder(tmp_path)
    assert len(where(table, busy=0)) == len(where(table, busy=3)) == len(table) / 2
    printed = capfd.readouterr().out
    assert "this machine has 3 cores and a load of 3.1" in printed
    assert "3 other processes spin meanwhile" in printed


def test_processes_spin_while_a_case_is_measured() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with compare.spinning(2):
        time.sleep(2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended
    assert after.ru_utime - before.ru_utime > 0.2


def test_no_load_no_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare, "usable_cores", lambda: 3)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 9.0, 9.0))
    compare.warn_of_load()
    assert capsys.readouterr().out == ""


def test_a_wrong_provider_is_reported_and_not_timed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = f"{__name__}:doubled"
    options = ["--turns", "2", "--cases", "2×12×5×5", "--provider", own, "--output", str(tmp_path)]
    bench.main(["run", "--device", "cpu", *options])
    (row,) = where(results.read_folder(tmp_path), provider=own).itertuples()
    assert (row.metric, row.value) == ("wrong", pytest.approx(1))  # twice the gradient
    assert f"{own} disagrees with the oracle and is not timed: its loss is" in capfd.readouterr().out


def test_who_fails_is_reported_and_not_called_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    def unlucky(*arguments: Any) -> Tensor:
        raise RuntimeError("out of luck")

    rows = results.frame(
        compare.measure(CASE, [Provider("unlucky", unlucky), Provider("plain", plain)], CPU, 1, ["both"])
    )
    assert where(rows, provider="unlucky").empty
    assert where(rows, metric="ratio").empty  # to whom
    assert len(where(rows, provider="plain", metric="wall")) == 1
    assert "unlucky fails and is not timed: RuntimeError: out of luck" in capsys.readouterr().out


def test_who_needs_equal_groups_sits_out_ragged_ones(capsys: pytest.CaptureFixture[str]) -> None:
    equal = Provider("equal", plain, takes_ragged_groups=False)
    for case, is_there in ((CASE, True), (RAGGED, False)):
        rows = results.frame(compare.measure(case, [Provider("ours", ours_eager), equal], CPU, turns=1, modes=["both"]))
        assert where(rows, provider="equal").empty != is_there
    assert "equal takes classes of equal size only" in capsys.readouterr().out


def test_ratios_are_taken_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine gets slower from turn to turn, and stalls in one: the ratio of both in the same turn does not change.
    slowness = [1.0, 2.0, 400.0, 8.0]
    order = []

    def clocks(call: Any, inputs: Any, device: Any, warm_up: int, name: str) -> dict[str, timing.Clock]:
        def seconds(turn: int) -> float:
            order.append(name)
            return slowness[turn] * {"ours": 0.001, "theirs": 0.003, "copy": 1.0}[name]

        return {"wall": seconds}

    monkeypatch.setattr(compare, "clocks", clocks)
    everyone = [Provider("ours", ours_eager), Provider("theirs", plain)]
    rows = results.frame(compare.measure(CASE, everyone, CPU, turns=4, modes=["both"]))
    (ratio,) = where(rows, metric="ratio").itertuples()
    assert (ratio.provider, ratio.repeats) == ("theirs", 4)
    assert [ratio.low, ratio.value, ratio.high] == pytest.approx([3, 3, 3])
    (wall,) = where(rows, provider="ours", metric="wall").itertuples()
    assert [wall.low, wall.value, wall.high] == pytest.approx([1.75, 5.0, 106.0])  # ms, of 1, 2, 400, 8
    assert order == ["ours", "theirs", "copy"] * 4


def test_backward_is_timed_without_forward() -> None:
    happened = []

    def loss(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        happened.append("forward")
        features.register_hook(lambda grad: happened.append("backward"))
        return (features * 1).sum()

    calls = {mode: timing.call_of(loss, mode) for mode in timing.MODES}
    inputs = Inputs.of(CASE)
    for mode, during in (("forward", ["forward"]), ("backward", ["backward"]), ("both", ["forward", "backward"])):
        prepared = calls[mode].prepared(inputs)
        happened.clear()
        calls[mode].run(prepared)
        assert happened == during


def test_the_peak_counts_memory_that_is_freed_again() -> None:
    assert 8000 <= peak_bytes(lambda: torch.ones(1000) + torch.ones(1000).exp().sum()) <= 16000


@dataclass
class FakeGpu:
    """`torch.cuda` with a clock of its own: a call costs a second, replayed a tenth of one, an event nothing.

    What a graph captures happens once, when it is captured, and again whenever it is replayed.
    """

    log: list[str] = field(default_factory=list)
    now: float = 0.0
    capturing: Any = None
    sync_mode: str = "default"

    def call(self, name: str, waits: bool = False, can_be_captured: bool = True) -> None:
        if waits and self.sync_mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        if self.capturing is not None and not can_be_captured:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        if self.capturing is None:
            self.now += 1.0
            self.log.append(name)
        else:
            assert not waits
            self.capturing.names.append(name)

    def set_sync_mode(self, mode: str) -> None:
        self.sync_mode = mode

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = gpu.now

            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.at - self.at)

        class Graph:
            def __init__(self) -> None:
                self.names: list[str] = []

            def replay(self) -> None:
                gpu.now += 0.1 * len(self.names)
                gpu.log += [f"replayed {name}" for name in self.names]

        @contextmanager
        def capture(graph: Graph, pool: str, stream: Any) -> Iterator[None]:
            assert (pool, stream.name) == ("pool", "side")
            gpu.capturing = graph
            try:
                yield
            finally:
                gpu.capturing = None

        @contextmanager
        def on_stream(stream: Any) -> Iterator[None]:
            yield

        def stream(name: str) -> Any:
            return SimpleNamespace(name=name, wait_stream=lambda other: None)

        for name, fake in {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": capture,
            "graph_pool_handle": lambda: "pool",
            "Stream": lambda: stream("side"),
            "current_stream": lambda: stream("main"),
            "stream": on_stream,
            "synchronize": lambda *device: gpu.log.append("wait"),
            "get_sync_debug_mode": lambda: gpu.sync_mode,
            "set_sync_debug_mode": gpu.set_sync_mode,
            "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=50 * 2**20),
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    return gpu


def test_on_a_gpu_kernels_operators_and_wall_time_are_told_apart(gpu: FakeGpu) -> None:
    call = timing.Call(lambda prepared: gpu.call(f"run {prepared}"), lambda inputs: gpu.call("prepare") or inputs)
    clocks = timing.clocks(call, ["a", "b", "c"], torch.device("cuda"), warm_up=2, name="it")  # type: ignore[list-item]
    assert gpu.log[:4] == ["prepare", "run a", "prepare", "run b"]
    gpu.log.clear()
    assert clocks["operator"](4) == pytest.approx(1.0)
    assert gpu.log == ["prepare", "wait", "run b", "wait"]  # inputs take turns
    gpu.log.clear()
    assert clocks["kernel"](0) == pytest.approx(0.1)  # of one call
    calls = [f"replayed run {it}" for it in "abc"]
    assert gpu.log == calls + ["replayed prepare"] * 3 + calls + ["wait"]
    gpu.log.clear()
    assert 0 < clocks["wall"](0) < 1
    assert gpu.log == ["prepare", "wait", "run a", "wait"]


def test_the_host_is_timed_until_the_call_returns(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: time.sleep(0.2))
    call = timing.Call(lambda inputs: gpu.call("run"))
    clocks = timing.clocks(call, ["a"], torch.device("cuda"), warm_up=0, name="it")  # type: ignore[list-item]
    assert clocks["host"](0) < 0.2 <= clocks["wall"](0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"waits": True}, "called a synchronizing CUDA operation"),
        ({"can_be_captured": False}, "operation not permitted when stream is capturing"),
    ],
)
def test_a_call_that_cannot_be_captured_is_timed_all_the_same(
    kind: dict[str, bool], reason: str, gpu: FakeGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    call = timing.Call(lambda inputs: gpu.call("run", **kind))
    clocks = timing.clocks(call, ["a"], torch.device("cuda"), warm_up=1, name="Theirs")  # type: ignore[list-item]
    assert set(clocks) == {"wall", "host", "operator"}
    assert gpu.sync_mode == "default"
    printed = capsys.readouterr().out
    assert printed == f"  Theirs cannot be captured in a CUDA graph: {reason}\n"


def test_rotated_inputs_are_more_than_twice_the_cache_and_not_too_many(gpu: FakeGpu) -> None:
    cuda = torch.device("cuda")
    assert timing.rotation(CASE, cuda) == 512
    for case in [*all_cases(), *(case for sweep in sweeps().values() for case in sweep.values())]:
        others = (timing.rotation(case, cuda) - 1) * case.nbytes
        assert 100 * 2**20 <= others < 100 * 2**20 + case.nbytes
    assert timing.rotation(CASE, CPU) == 1


def test_on_a_gpu_each_clock_has_a_row(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs_of = Inputs.of
    monkeypatch.setattr(compare.Inputs, "of", lambda case, device, seed=0: inputs_of(case, CPU, seed))
    monkeypatch.setattr(compare, "peak_bytes", lambda call, device: 7)
    monkeypatch.setattr(compare, "rotation", lambda case, device: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(compare, "copy_call", lambda: timing.Call(lambda inputs: gpu.call("copy")))

    def theirs(*arguments: Any) -> Tensor:
        gpu.call("theirs")
        return plain(*arguments)

    rows = results.frame(
        compare.measure(CASE, [Provider("theirs", theirs)], torch.device("cuda"), turns=2, modes=["both"])
    )
    assert set(rows.device) == {"Some GPU"}
    assert set(rows.threads) == {0}
    both = where(rows, provider="theirs", mode="both").set_index("metric").value
    assert set(both.index) == {"wall", "host", "operator", "kernel", "peak", "error"}
    assert list(both[["operator", "kernel", "peak"]]) == pytest.approx([1000, 100, 7])
    assert where(rows, provider="copy", metric="kernel").value.item() == pytest.approx(100)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", [CASE, RAGGED], ids=["uniform", "ragged"])
def test_on_a_real_gpu_everyone_is_timed_on_every_clock(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "rotation", lambda case, device: 3)
    cuda = torch.device("cuda")
    everyone = [one for one in compare.providers(cuda, compiled=False) if one.name != "Holocron"]
    rows = results.frame(compare.measure(case, everyone, cuda, turns=2))
    for provider in everyone:
        for mode in timing.MODES:
            metrics = set(where(rows, **provider.facts, mode=mode).metric)
            assert metrics >= {"wall", "host", "operator", "kernel"}


def test_a_cpu_is_named_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert compare.device_name(CPU).endswith(", 1 thread")
