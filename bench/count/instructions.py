"""Issue slots of compiled kernels, counted in NVIDIA's machine code without a GPU.

A warp issues the instructions of a loop once per trip. The trips are those of the `for` statement in the kernel's
source that the loop was compiled from. An instruction whose predicate is false counts, since it takes a slot too; a
branch that may skip instructions counts as not taken; subroutines (float64 division) are left out. An SM issues 4
instructions per clock only if none has to wait, so the time is a lower bound.
"""

from __future__ import annotations

import ast
import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from mcl_triton.groups import flat_runs
from mcl_triton.kernels.launch import Pieces, Strides, choose_forward, pieces_of

from .compiled import Variant, compiled, launches_of


class Gpu(NamedTuple):
    """Limits on the time of a kernel."""

    name: str
    multiprocessors: int
    clock: int  # MHz, boost
    bandwidth: int  # GB/s that a copy reaches
    slots_per_clock: int = 4  # of a multiprocessor: one for each of its schedulers

    def issue_microseconds(self, slots: float) -> float:
        """The least time in which this many instructions of warps can be issued."""
        return slots / (self.slots_per_clock * self.multiprocessors * self.clock)

    def memory_microseconds(self, nbytes: float) -> float:
        """The time to move this many bytes."""
        return nbytes / (1e3 * self.bandwidth)


H200 = Gpu("H200", 132, 1980, 4300)

# The first pattern that the beginning of an opcode matches gives the class of an instruction.
_CLASSES = {
    "loads and stores": r"LD[GSL]|ST[GSL]|LDSM|STSM|LDGSTS|LD\b|ST\b|ATOM|RED\b|UTMA",
    "shuffles": r"SHFL|REDUX|VOTE|MATCH",
    "MUFU": r"MUFU",
    "selects and predicates": r"U?[FIHD]SETP2?|U?F?SEL\b|U?PLOP3|[PR]2[PR]\b|FSET\b|FCHK",
    "float": r"[FD](?:ADD|MUL|FMA|MNMX)|H(?:ADD|MUL|FMA|MNMX)2",
    "conversions": r"[FI]2[FIP]",
    "barriers": r"BAR|WARPSYNC|BSSY|BSYNC|DEPBAR|MEMBAR|ERRBAR|CCTL|NANOSLEEP|SYNCS|FENCE",
    "branches": r"BRA|BRX|EXIT|CALL|RET|JMP|NOP",
    "integer": r"",  # addresses, moves and the unpacking of 16-bit types among them
}
CLASSES = tuple(_CLASSES)


class Issue(NamedTuple):
    """Instructions that one launch of a kernel issues.

    Attributes:
        kernel: for example "whole_maps.forward".
        programs, warps: how many programs, and warps of each.
        slots: instructions of all warps, by class.
    """

    kernel: str
    programs: int
    warps: int
    slots: Counter[str]

    def microseconds(self, gpu: Gpu = H200) -> float:
        """The least time to issue all instructions."""
        return gpu.issue_microseconds(self.slots.total())


def issue_of(target: str, case: Variant) -> list[Issue]:
    """The launches of a case's forward, backward and mask; in a worker of `bench.count.compiled`."""
    issues = []
    for direction, launch in launches_of(case).items():
        kernel, _ = compiled(target, launch)
        code = MachineCode(kernel.asm["ptx"])
        # What every program issues, and what each tile of a sample adds.
        each = code.issued({**launch.arguments, **_trips(0)})
        slots = Counter({kind: issued * launch.grid[0] for kind, issued in each.items()})
        tiles = tile_lengths(case, launch.constants)
        times = launch.grid[0] / len(tiles) if "TILES_A_PROGRAM" not in launch.constants else case.batch
        for length, count in Counter(tiles).items():
            for kind, issued in code.issued({**launch.arguments, **_trips(length)}).items():
                slots[kind] += round((issued - each[kind]) * count * times)
        slots = Counter({kind: number * kernel.metadata.num_warps for kind, number in slots.items()})
        module = launch.kernel.module.rsplit(".", 1)[-1]
        issues.append(Issue(f"{module}.{direction}", launch.grid[0], kernel.metadata.num_warps, slots))
    return issues


def tile_lengths(case: Variant, constants: Mapping[str, int]) -> list[int]:
    """Channels that pass by one after the other, for each tile of a sample or of a mask."""
    sizes = case.groups.sizes
    if constants.get("IN_PIECES"):
        return [-(-number // constants["ROWS"]) for number in pieces_of_case(case).pieces[2::4]]
    if "TILE_PARTS" in constants:  # the parts of each split class
        return [*pieces_of_case(case).splits[2::3]]
    rows = constants.get("TILE_CLASSES") or constants.get("ROWS", 1)
    return [max(sizes[first : first + rows]) for first in range(0, len(sizes), rows)]


def pieces_of_case(case: Variant) -> Pieces:
    """The pieces of its groups."""
    features, runs = case.features().flatten(2), tuple(flat_runs(case.groups))
    launch = choose_forward(runs, *features.shape[::2], features.element_size(), Strides(*features.stride()))
    assert launch.cut is not None
    return pieces_of(runs, launch.cut)


def _trips(length: int) -> dict[str, int]:
    """Values of the variables in the kernels' loops, for one tile of so many channels, or none."""
    return {"first_tile": 0, "end_tile": min(length, 1), "first_part": 0, "end_part": length} | dict.fromkeys(
        ("size", "steps", "longest"), length
    )


class MachineCode:
    """The instructions of a kernel, its loops, and the lines of its source that they came from.

    Args:
        ptx: what Triton compiled the kernel to, ours or one that Inductor generated: ``compiled.asm["ptx"]``.
        sources: text of the kernel's source files by path, where that is not what the path leads to.
    """

    def __init__(self, ptx: str, sources: Mapping[str, str] | None = None) -> None:
        instructions, labels = _parsed(disassembled(ptx))
        reached, waiting = set(), [0]
        while waiting:
            index = waiting.pop()
            if index not in reached:
                reached.add(index)
                waiting += instructions[index].successors(index, labels)
        ends: dict[int, int] = {}  # the last instruction of a loop by its first: a branch back
        for index in reached:
            first = min(instructions[index].successors(index, labels), default=index + 1)
            if first <= index:
                ends[first] = max(index, ends.get(first, 0))
        loops = sorted(ends.items(), key=lambda loop: loop[1] - loop[0], reverse=True)  # outer ones first
        own: dict[tuple[int, int], list[_Instruction]] = {loop: [] for loop in loops}  # and not of a loop within
        self._instructions: list[tuple[_Instruction, list[tuple[int, int]]]] = []
        for index in sorted(reached):
            around = [loop for loop in loops if loop[0] <= index <= loop[1]]
            self._instructions.append((instructions[index], around))
            if around:
                own[around[-1]].append(instructions[index])
        self.loops = {loop: _statement(instructions[loop[1]], own[loop], sources or {}) for loop in loops}

    def issued(self, names: Mapping[str, Any]) -> Counter[str]:
        """The instructions that one warp issues, by class.

        Args:
            names: values of the names in the kernel's `range(...)`: constants, arguments, and variables among them.
        """
        trips = {loop: statement.trips(names) for loop, statement in self.loops.items()}
        issued: Counter[str] = Counter()
        for instruction, around in self._instructions:
            issued[instruction.kind] += math.prod(trips[loop] for loop in around)
        return issued


def disassembled(ptx: str) -> str:
    """Machine code with the source's lines, assembled so that a trip of a loop in the source is one in the code."""
    target = re.search(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
    if target is None:
        raise ValueError("not PTX: it names no target")
    ptx, found = re.subn(r"^(\.address_size \d+)$", r'\1\n.pragma "nounroll";', ptx, count=1, flags=re.MULTILINE)
    if not found:
        raise ValueError("not PTX: it has no address size")
    newest = int(re.sub(r"\D", "", target[1])) >= 100
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        ptxas = "ptxas-blackwell" if newest and (_tools() / "ptxas-blackwell").exists() else "ptxas"
        _run(ptxas, "-lineinfo", f"--gpu-name={target[1]}", str(source), "-o", str(cubin))
        return _run("nvdisasm", "-c", "-g", str(cubin))


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _run(tool: str, *options: str) -> str:
    return subprocess.run([_tools() / tool, *options], capture_output=True, text=True, check=True).stdout


class _Instruction(NamedTuple):
    opcode: str
    path: str
    line: int
    is_conditional: bool
    label: str  # where a branch leads

    @property
    def kind(self) -> str:
        return next(kind for kind, pattern in _CLASSES.items() if re.match(pattern, self.opcode))

    def successors(self, index: int, labels: Mapping[str, int]) -> list[int]:
        """The instructions that may come next. BRA.DIV branches where a warp has diverged, as none of ours does."""
        if not re.match(r"BRA(?!\.DIV)|EXIT|RET", self.opcode):
            return [index + 1]
        targets = [labels[self.label]] if self.opcode.startswith("BRA") else []
        return [*targets, index + 1] if self.is_conditional else targets


def _parsed(sass: str) -> tuple[list[_Instruction], dict[str, int]]:
    """All instructions, and the index of the one behind each label."""
    instructions: list[_Instruction] = []
    labels: dict[str, int] = {}
    path, line = "", 0
    for text in sass.splitlines():
        if location := re.match(r'\s*//## File "(.*?)", line (\d+)', text):
            path, line = location[1], int(location[2])
        elif label := re.match(r"(\.L_x_\d+):", text):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)( !?U?P\w+,)?", text):
            target = re.search(r"`\((\.L_x_\d+)\)", text)
            is_conditional = bool(found[1] or found[3])
            instructions.append(_Instruction(found[2], path, line, is_conditional, target[1] if target else ""))
    return instructions, labels


class _Statement(NamedTuple):
    """A `for ... in range(...)` of the kernel's source."""

    path: str
    line: int
    end: int
    bounds: tuple[str, ...]  # the arguments of range, as Python

    def trips(self, names: Mapping[str, Any]) -> int:
        known = {"tl": SimpleNamespace(cdiv=lambda a, b: -(-a // b), max=lambda a, axis: a), "min": min, "max": max}
        bounds = (int(eval(bound, {"__builtins__": {}}, {**known, **names})) for bound in self.bounds)
        return len(range(*bounds))


def _statement(branch: _Instruction, own: Iterable[_Instruction], sources: Mapping[str, str]) -> _Statement:
    """The `for` that a loop was compiled from, given its branch back and its own instructions."""
    instructions = [branch, *own]
    paths = {each.path for each in instructions}
    statements = [statement for path in sorted(paths) for statement in _statements(path, sources.get(path))]
    named = [each for each in statements if (each.path, each.line) == (branch.path, branch.line)]
    if not named:  # the one around most of the instructions, the innermost of those
        around = Counter(
            each for each in statements for one in own if one.path == each.path and each.line <= one.line <= each.end
        )
        most = max(around.values(), default=0)
        named = sorted((each for each in around if around[each] == most), key=lambda each: each.end - each.line)
    if not named:
        raise ValueError(f"a loop whose branch is from line {branch.line} of {branch.path} has no range(...) there")
    return named[0]


@cache
def _statements(path: str, text: str | None) -> tuple[_Statement, ...]:
    if text is None:
        text = Path(path).read_text() if Path(path).is_file() else ""
    return tuple(
        _Statement(path, node.lineno, node.end_lineno or node.lineno, tuple(map(ast.unparse, node.iter.args)))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.For)
        and isinstance(node.iter, ast.Call)
        and ast.unparse(node.iter.func) in ("range", "tl.range")
    )
