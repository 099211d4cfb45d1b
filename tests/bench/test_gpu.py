"""`python -m bench gpu` on a machine without a GPU: its order, its limits, and that nothing stops it."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fake_gpu_stage
import pytest
import recorded_graphs
import torch

from bench import results
from bench.cases import Case
from bench.gpu import command, counters, launches, planted, sanitizer, tests, times, training_step
from bench.gpu.command import Stage
from bench.gpu.progress import Progress
from bench.gpu.stage import Setup, Skipped, Trouble, apart
from bench.gpu.training_step import Sizes
from mcl_triton import ChannelGroups, MCLoss, mc_loss

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(command, "GRACE_SECONDS", 1)


def run(folder: Path, parts: str, seconds: float = 120, part_seconds: float = 60, minutes: float = 5) -> int:
    """The command with one stage of these parts; its exit status."""
    (folder / "parts.txt").write_text(parts)
    stages = (Stage("fake_gpu_stage", seconds, part_seconds, "in every way", "tests.bench"),)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "STAGES", stages)
        return command.main(argparse.Namespace(output=folder, minutes=minutes, stages=["fake_gpu_stage"]))


def outcomes(folder: Path) -> dict[str, tuple[str, str]]:
    """Outcome and text of each part, the stage as a whole apart."""
    latest = Progress(folder, 0).latest("fake_gpu_stage")
    return {part: (entry.outcome, entry.text) for part, entry in latest.items() if part}


def ran(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "ran.txt").read_text().splitlines()]


def test_every_part_has_its_turn_whatever_happens_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "good1 fails skips dies good2 poisons good3") == 1
    assert outcomes(tmp_path) == {
        "good1": ("done", "42"),
        "fails": ("failed", "ValueError: it went wrong"),
        "skips": ("skipped", "there is no such tool"),
        "dies": ("failed", "the process ended with status 3"),
        "good2": ("done", "42"),
        "poisons": ("failed", "RuntimeError: CUDA error: an illegal memory access was encountered"),
        "good3": ("done", "42"),
    }
    processes = dict(line.split() for line in (tmp_path / "ran.txt").read_text().splitlines())
    assert processes["good1"] == processes["dies"] != processes["good2"] == processes["poisons"] != processes["good3"]
    log = (tmp_path / "log.txt").read_text()
    assert "in more than one line" in log
    assert "Traceback" in log
    printed = capsys.readouterr().out
    assert "skipped skips: there is no such tool" in printed
    assert "fake_gpu_stage3 done, 3 failed, 1 skipped" in printed.replace(" " * 2, "")


def test_a_part_that_takes_too_long_is_stopped_where_it_is(tmp_path: Path) -> None:
    started = time.monotonic()
    assert run(tmp_path, "sleeps ignores good", part_seconds=30) == 0  # on a busy machine a signal takes seconds
    assert time.monotonic() - started < 120
    found = outcomes(tmp_path)
    assert found["good"] == ("done", "42")
    assert found["sleeps"] == ("stopped", "it took longer than its limit")
    assert found["ignores"] == ("stopped", "the time for ignores is over")
    log = (tmp_path / "log.txt").read_text()
    assert log.count("in _sleep") >= 2  # both have shown where they were


def test_another_call_repeats_what_is_not_done_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, "good1 fails")
    run(tmp_path, "good1 fails good2 skips")
    assert ran(tmp_path) == ["good1", "fails", "good2", "skips", "fails"]
    (tmp_path / "ran.txt").unlink()
    (tmp_path / "progress.jsonl").unlink()
    assert run(tmp_path, "good1") == run(tmp_path, "good1") == 0
    assert ran(tmp_path) == ["good1"]


def test_without_time_nothing_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "good", minutes=0) == 0
    assert outcomes(tmp_path) == {}
    assert "no time left; call again" in capsys.readouterr().out


def test_the_time_of_a_stage_ends_it_and_another_call_continues(tmp_path: Path) -> None:
    assert run(tmp_path, "good1 sleeps good2", seconds=12) == 0
    assert [name for name, (outcome, _) in outcomes(tmp_path).items() if outcome == "done"] == ["good1"]
    run(tmp_path, "good1 sleeps good2", seconds=20, part_seconds=1000)
    assert ran(tmp_path) == ["good1", "sleeps", "good2", "sleeps"]  # new parts first


def test_a_stage_that_cannot_be_imported_is_reported(tmp_path: Path) -> None:
    (tmp_path / "parts.txt").unlink(missing_ok=True)
    stages = (Stage("no_such_stage", 60, 60, "not there"),)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "STAGES", stages)
        assert command.main(argparse.Namespace(output=tmp_path, minutes=1, stages=["no_such_stage"])) == 1
    assert "No module named 'bench.gpu.no_such_stage'" in (tmp_path / "log.txt").read_text()


def test_half_a_line_of_a_killed_process_is_overlooked(tmp_path: Path) -> None:
    progress = Progress(tmp_path, 1)
    progress.begin("a", "b")
    with open(progress.path, "a") as file:
        file.write('{"call": 1, "stage": "a", "pa')
    progress.end("a", "b", "done", "fine")
    assert [entry.outcome for entry in progress.entries()] == ["begun", "done"]
    assert progress.running("a") is None


def test_what_a_process_raises_comes_back_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = apart([(fake_gpu_stage.raise_unlucky,), (abs, -3)], processes=2)
    assert isinstance(first, Trouble)
    assert str(first) == "fake_gpu_stage.Unlucky: the compiler: no such pass"
    assert second == 3
    assert "in raise_unlucky" in capsys.readouterr().out


def test_a_folder_gets_eight_files_at_most() -> None:
    sources = [path.read_text() for path in (ROOT / "bench/gpu").glob("*.py")]
    names = {name for source in sources for name in re.findall(r'(?:folder|parent) / "([\w.]+)"', source)}
    assert {"log.txt", "progress.jsonl", "tests.log"} <= names
    assert len(names) + 1 <= 8  # and the results of the device


# The stages


def test_the_list_of_tests_for_a_gpu_has_every_file_that_computes_on_one() -> None:
    listed = [file for files in tests.FILES.values() for file in files]
    on_gpu = re.compile(r'"cuda" if torch\.cuda\.is_available\(\)|not \(?torch\.cuda\.is_available\(\)')
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*/test_*.py") if path != Path(__file__)]
    assert sorted(listed) == sorted(path for path in found if on_gpu.search((ROOT / path).read_text()))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "a\n=== 5 failed, 784 passed, 3 skipped in 4.40s (0:07:17) ===\n",
            "5 failed, 784 passed, 3 skipped in 4.40s (0:07:17)",
        ),
        ("x\n\n3268 tests collected in 6.53s\n", "3268 tests collected in 6.53s"),
        ("Interrupted\n", "it counted no tests"),
    ],
)
def test_summary_of_pytest(output: str, expected: str) -> None:
    assert tests.summary(output) == expected


RIGHT = f"========= COMPUTE-SANITIZER\n{sanitizer.BEGIN}\nragged, 5×5: right\n{sanitizer.END}\n"
WRITE = """========= Invalid __global__ write of size 4 bytes
=========     at {kernel}+0x1a0 in kernels.py:57
=========     by thread (64,0,0) in block (0,0,0)
=========     Address 0x7f1 is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: void at::native::backward() [0x7]
=========
"""
FOUND = f"{sanitizer.PLANTED} begins\n{WRITE.format(kernel='planted_error_kernel')}"
OF_PYTORCH = WRITE.format(kernel="void at::native::fill<float>(int)")
RACE = RIGHT.replace(
    sanitizer.END,
    "========= Error: Race reported between Write access at forward_kernel+0x1 and Read access at forward_kernel+0x2 "
    f"[8 hazards]\n=========\n{sanitizer.END}",
)


@pytest.mark.parametrize(
    ("tool", "output", "expected"),
    [
        ("memcheck", RIGHT + FOUND, "no error, and the planted one was found"),
        ("memcheck", OF_PYTORCH + RIGHT + FOUND, "no error, and the planted one was found"),
        ("racecheck", RIGHT + "========= RACECHECK SUMMARY: 0 hazards displayed\n", "no error"),
    ],
)
def test_a_tool_that_finds_nothing(tool: str, output: str, expected: str) -> None:
    assert sanitizer.verdict(tool, output) == expected


@pytest.mark.parametrize(
    ("tool", "output", "error", "message"),
    [
        ("memcheck", RIGHT, AssertionError, "the planted error was not found"),
        (
            "memcheck",
            WRITE.format(kernel="forward_kernel") + RIGHT + FOUND,
            AssertionError,
            "1 errors, .*forward_kernel",
        ),
        ("memcheck", f"{sanitizer.BEGIN}\n{WRITE.format(kernel='mask_kernel')}", AssertionError, "mask_kernel"),
        ("racecheck", RACE, AssertionError, "1 errors, the first: Error: Race reported"),
        ("initcheck", f"{sanitizer.BEGIN}\nTraceback\nRuntimeError: no", RuntimeError, "its end: RuntimeError: no"),
        ("initcheck", "hello\n========= Error: Device not supported\n", Skipped, "here: Error: Device not supported"),
        ("initcheck", "", Skipped, "no output"),
    ],
)
def test_what_a_tool_finds(tool: str, output: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sanitizer.verdict(tool, output)


def test_the_planted_error_is_one() -> None:
    memory = torch.zeros(256)
    planted.planted_error_kernel[(1,)](memory[:64], SIZE=256)
    assert (memory == 1).all()  # 192 numbers behind the tensor as well


CASE = Case(2, ChannelGroups.split(14, 4), 5)


def test_a_line_about_a_case_has_each_step_and_the_bandwidth_of_ours() -> None:
    def row(provider: str, metric: str, value: float, mode: str = "both") -> dict[str, Any]:
        return results.result(metric, value, "measured", provider=provider, mode=mode)

    rows = [row("ours", "kernel", 0.003), row("ours", "kernel", 0.001, "forward"), row("copy", "kernel", 0.001)]
    rows += [row("ours", "wall", 1.0), row("official", "kernel", 0.09), row("plain", "wrong", 1.0)]
    assert times.summary(rows, 2_000_000) == (
        "kernel ms: ours 0.003, copy 0.001, official 0.09; 2000 GB/s where a copy has 4000; wrong: plain"
    )


NCU = """==PROF== Connected to process 7
"ID","Process ID","Kernel Name","dram__bytes_read.sum","dram__bytes_write.sum","smsp__inst_executed.sum",\
"gpu__time_duration.sum","l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",\
"l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_hit.sum","lts__t_sectors_op_read.sum",\
"lts__t_sectors_op_read_lookup_hit.sum"
"","","","byte","byte","inst","ns","sector","sector","sector","sector"
"0","7","forward_kernel","2,800","56","1,000","2500","200","100","100","0"
"1","7","void at::native::reduce_kernel<512, 1>(T1)","8","8","5","1000","0","0","n/a","0"
"2","7","backward_kernel","2800","2800","3000","5000","400","200","0","0"
==PROF== Disconnected
"""


def test_what_ncu_counts_becomes_results(capsys: pytest.CaptureFixture[str]) -> None:
    kernels = counters.kernels_of(NCU)
    assert [kernel["Kernel Name"].partition("<")[0] for kernel in kernels] == [
        "forward_kernel",
        "void at::native::reduce_kernel",
        "backward_kernel",
    ]
    rows = counters.rows(kernels, CASE, torch.device("cpu"))
    results.frame(rows)  # metrics and columns are known
    values = {(row["kernel"], row["metric"]): row["value"] for row in rows}
    assert values == {
        ("forward_kernel", "kernel"): 2.5e-3,
        ("forward_kernel", "traffic"): 2856,
        ("forward_kernel", "issue slots"): 1000,
        ("forward_kernel", "first cache hits"): 0.5,
        ("forward_kernel", "second cache hits"): 0,
        ("backward_kernel", "kernel"): 5e-3,
        ("backward_kernel", "traffic"): 5600,
        ("backward_kernel", "issue slots"): 3000,
        ("backward_kernel", "first cache hits"): 0.5,
    }
    assert {row["mode"] for row in rows} == {"forward", "backward"}
    least = 3 * CASE.nbytes
    assert counters.report(kernels, CASE) == (
        f"3 launches; our kernels moved 0.0 MiB ({8456 / least:.2f} of the least) and "
        "issued 0.00 million warp instructions"
    )
    assert "reduce_kernel" in capsys.readouterr().out


class OnGpu(Setup):
    """The CPU, taken for a GPU."""

    @property
    def is_gpu(self) -> bool:
        return True


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return OnGpu(torch.device("cpu"), tmp_path)


def program(folder: Path, script: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_ncu_that_does_not_know_a_metric_is_asked_without(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table").write_text(NCU)
    ncu = program(
        tmp_path, f'case "$*" in *--metrics*) echo "==ERROR== Failed to find metric";; *) cat {tmp_path}/table;; esac'
    )
    monkeypatch.setattr(counters.shutil, "which", lambda name: ncu)
    assert counters.profile(setup, 0, CASE).startswith("3 launches")
    written = (tmp_path / "counters.log").read_text()
    assert "Failed to find metric" in written
    assert "backward_kernel" in written
    assert len(results.read(setup.results)) == 9


def test_ncu_that_may_not_read_counters_is_skipped(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ncu = program(tmp_path, 'echo "==PROF== Connected"; echo "==ERROR== ERR_NVGPUCTRPERM - no permission"; exit 1')
    monkeypatch.setattr(counters.shutil, "which", lambda name: ncu)
    with pytest.raises(Skipped, match="does not work here: ==ERROR== ERR_NVGPUCTRPERM"):
        counters.profile(setup, 0, CASE)


def test_the_sanitizer_is_started_with_each_tool(tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").write_text(RIGHT + FOUND)
    path = program(tmp_path, f'echo "$*"; cat {tmp_path}/output')
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: path)
    for part in sanitizer.parts(setup):
        assert part.run().startswith("no error")
    log = (tmp_path / "sanitizer.log").read_text()
    assert [words[1] for words in re.findall(r"^(--tool) (\w+) ", log, re.MULTILINE)] == list(sanitizer.TOOLS)
    assert log.count("bench.gpu.sanitizer --plant") == 1


# The training step


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA graphs on a CPU."""
    recorded_graphs.stand_in_without_a_gpu()
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    monkeypatch.setattr(training_step, "TURNS", 2)
    monkeypatch.setattr(training_step, "WARM_UP", 1)
    yield
    patch.stopall()


def test_replays_of_a_captured_loss_draw_different_masks(
    setup: Setup, captures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_step, "REAL", Sizes(training_step.resnet18, 90, 448, 2, classes=20))
    assert training_step.different_masks(setup, replays=4) == "4 replays drew 4 different masks"
    monkeypatch.setattr(MCLoss, "forward", lambda self, *given: mc_loss(*given, self.groups, weights=(1, 0), drop=0))
    with pytest.raises(AssertionError, match="4 replays drew 1 different masks"):
        training_step.different_masks(setup, replays=4)


def test_steps_with_and_without_the_loss_are_compared_where_one_fails(
    setup: Setup, captures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(groups: ChannelGroups) -> None:
        raise NotImplementedError("no such loss")

    monkeypatch.setitem(training_step.LOSSES, "official", broken)
    with pytest.raises(RuntimeError) as raised:
        training_step.compare(setup, Sizes(training_step.resnet18, 512, 32, 2), "captured")
    assert re.fullmatch(
        r"official fails: NotImplementedError: no such loss; no MC-Loss [\d.]+ ms, 1.00 GiB; "
        r"ours [\d.]+ ms \(share -?[\d.]+%\), 1.00 GiB",
        str(raised.value),
    )
    rows = results.read(setup.results)
    assert set(zip(rows.provider, rows.metric, strict=True)) == {
        (provider, metric) for provider in ("no MC-Loss", "ours") for metric in ("kernel", "peak")
    }
    assert set(rows["mode"]) == {"training step"}


def test_the_share_is_of_the_whole_step() -> None:
    seconds = {"no MC-Loss": [0.08, 0.08, 0.5], "ours": [0.1, 0.1, 0.1]}
    assert training_step.table(seconds, {"no MC-Loss": 0, "ours": 2**31}) == (
        "no MC-Loss 80.00 ms; ours 100.00 ms (share 20.0%), 2.00 GiB"
    )


# All of it


def test_without_a_gpu_everything_runs_to_its_end(tmp_path: Path) -> None:
    without_git = {"PATH": str(tmp_path), "BENCH_COMMIT": "0123456789"}
    call = [sys.executable, "-m", "bench", "gpu", "--output", str(tmp_path / "out"), "--minutes", "30"]
    done = subprocess.run(call, cwd=ROOT, env=os.environ | without_git, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "commit 0123456789" in done.stdout
    progress = Progress(tmp_path / "out", 0)
    for stage in command.STAGES:
        entries = [entry for part, entry in progress.latest(stage.name).items() if part]
        assert entries, stage.name
        for entry in entries:
            assert entry.outcome == "done" or (entry.outcome == "skipped" and "a GPU" in entry.text), entry
    table = results.read_folder(tmp_path / "out")
    assert set(table["commit"]) == {"0123456789"}
    assert {"training step", "both"} <= set(table["mode"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_the_small_steps_launch_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [import_module(f"mcl_triton.kernels.{path.stem}") for path in (ROOT / "mcl_triton/kernels").glob("*.py")]
    kernels = {
        kernel.fn
        for module in modules
        for name, kernel in vars(module).items()
        if name.endswith("_kernel") and hasattr(kernel, "fn")
    }
    launched = set()
    kernel_type = type(planted.planted_error_kernel)
    grid_of = kernel_type.__getitem__

    def noted(kernel: Any, grid: tuple[int, ...]) -> Any:
        launched.add(kernel.fn)
        return grid_of(kernel, grid)

    monkeypatch.setattr(kernel_type, "__getitem__", noted)
    for step in launches.STEPS.values():
        assert step.mistake(torch.device("cpu")) is None
    assert launched == kernels
    assert len(kernels) >= 5
