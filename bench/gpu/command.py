"""Prove and measure everything on a GPU, in the minutes that there are: `python -m bench gpu --output DIR`.

The stages come in the order of what they prove. Each runs in a process of its own with a time limit of its own, and
leaves its results in DIR as soon as it has them. Later stages are dropped when the time is over; another call with the
same DIR continues where the first one stopped, and repeats what failed. Without a GPU small cases and Triton's
interpreter stand in where they can, and the rest is skipped.

DIR then has log.txt (everything that was printed), progress.jsonl (the outcome of each part), a CSV file of results,
and the logs of the tests, the sanitizer and the profiler.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import results
from .progress import Entry, Progress
from .stage import RESTART

ROOT = Path(__file__).parents[2]
LEAST_SECONDS = 20  # with less time left, no stage begins: a process takes half of it to start
START_SECONDS = 180  # from the start of a process until its first part begins, on a machine that is busy
GRACE_SECONDS = 10  # from the request to stop until the process is killed


@dataclass(frozen=True)
class Stage:
    """A stage and its limits.

    Attributes:
        name: of the module that has its parts.
        seconds: limit of the stage in one call.
        part_seconds: limit of each part.
        summary: what it does.
        folder: the package of the module.
    """

    name: str
    seconds: float
    part_seconds: float
    summary: str
    folder: str = "bench.gpu"


STAGES = (
    Stage("environment", 400, 90, "the environment, and one step of each kernel family against the oracle"),
    Stage("tests", 300, 270, "the tests that a GPU can run, in parallel"),
    Stage("sanitizer", 240, 120, "memory errors and races, by compute-sanitizer"),
    Stage("times", 300, 180, "time, bandwidth and memory against everyone else, for a few shapes"),
    Stage("counters", 240, 60, "what the hardware counts, by ncu, beside what was counted without a GPU"),
    Stage("rules", 300, 180, "launch rules: alternatives beside the chosen ones"),
    Stage("training_step", 400, 250, "a training step of ResNet50 with and without the loss"),
    Stage("all_times", 540, 180, "time against everyone else for the other shapes, as time allows"),
)


def main(options: argparse.Namespace) -> int:
    """Run the stages that are left; returns 1 if any part failed in this call."""
    names = [stage.name for stage in STAGES]
    wanted = options.stages or names
    if unknown := set(wanted) - set(names):
        raise SystemExit(f"--stages must be of {', '.join(names)}; got {', '.join(sorted(unknown))}.")
    ends = time.monotonic() + 60 * options.minutes
    options.output.mkdir(parents=True, exist_ok=True)
    progress = Progress(options.output, int(time.time()))
    print(f"{results.versions()}; commit {results.run_facts()['commit']}; {options.minutes:g} minutes", flush=True)
    for stage in STAGES:
        if stage.name not in wanted:
            continue
        before = progress.latest(stage.name).get("")
        left = ends - time.monotonic()
        if before is not None and before.outcome == "done":
            print(f"{stage.name}: done before", flush=True)
        elif left < LEAST_SECONDS:
            print(f"{stage.name}: no time left; call again", flush=True)
        else:
            print(f"{stage.name}: {stage.summary}", flush=True)
            run_stage(stage, min(stage.seconds, left), progress)
    failed = summarise(progress)
    print(f"results are in {options.output}", flush=True)
    return int(failed > 0)


def run_stage(stage: Stage, seconds: float, progress: Progress) -> None:
    """Run a stage in as many processes as it takes, one after the other, for so many seconds in all."""
    ends = time.monotonic() + seconds
    while True:
        ended = progress.ended_in_this_call(stage.name)
        status, outcome, why = _run_process(stage, ends, progress)
        if status == 0:
            return
        if (part := progress.running(stage.name)) is not None:
            progress.end(stage.name, part, outcome, why, seconds=0)
            _say(progress.latest(stage.name)[part])
        elif status != RESTART and progress.ended_in_this_call(stage.name) == ended:
            progress.end(stage.name, "start", outcome, why, seconds=0)
            _say(progress.latest(stage.name)["start"])
            return
        if ends - time.monotonic() < LEAST_SECONDS:
            return


def _run_process(stage: Stage, ends: float, progress: Progress) -> tuple[int, str, str]:
    """Start a process for the parts that are left and watch it.

    Returns:
        Its exit status, and the outcome of a part that it left unfinished, with the reason.
    """
    arguments = [
        sys.executable,
        "-m",
        "bench.gpu.stage",
        f"{stage.folder}.{stage.name}",
        str(progress.path.parent),
        str(progress.call),
    ]
    said = len(progress.entries())
    part, since = "", time.monotonic()
    with open(progress.path.parent / "log.txt", "ab") as log:
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "BENCH_COMMIT": results.run_facts()["commit"]},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        outcome, why = "failed", ""
        try:
            while process.poll() is None:
                time.sleep(0.2)
                for entry in (entries := progress.entries())[said:]:
                    if entry.outcome == "begun":
                        part, since = entry.part, time.monotonic()
                    _say(entry)
                said = len(entries)
                now = time.monotonic()
                if now > ends or now > since + (stage.part_seconds if part else START_SECONDS):
                    outcome, why = (
                        "stopped",
                        f"the time for {'the stage' if now > ends else part or 'the start'} is over",
                    )
                    _stop(process)
        finally:
            if process.poll() is None:  # this call itself is being stopped
                _stop(process)
    for entry in progress.entries()[said:]:
        _say(entry)
    return process.returncode, outcome, why or f"the process ended with status {process.returncode}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to show where it is and to stop, and end it and all that it has started if it does not."""
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    _signal_group(process, signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, which)


def _say(entry: Entry) -> None:
    if entry.outcome != "begun" and entry.part:
        print(f"  {entry.outcome:8}{entry.part}: {entry.text} ({entry.seconds:g} s)", flush=True)


def summarise(progress: Progress) -> int:
    """Print how many parts of each stage ended how; returns how many failed in this call."""
    failed = 0
    for stage in STAGES:
        entries = [entry for part, entry in progress.latest(stage.name).items() if part]
        counts = Counter(entry.outcome for entry in entries)
        failed += sum(entry.outcome == "failed" and entry.call == progress.call for entry in entries)
        text = ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "not begun"
        print(f"{stage.name:14}{text}", flush=True)
    return failed
