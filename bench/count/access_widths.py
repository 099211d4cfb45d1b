"""The widths of the instructions that access the maps, in the assembly of a compiled kernel.

Triton's intermediate code has the argument of the kernel that each pointer comes from, and the line of each access;
the instructions are labelled with that line.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

MAPS = ("features", "grad")  # the large tensors among the kernels' arguments: F and dF
_AMD_BYTES = {"byte": 1, "short": 2, "dword": 4}


class Access(NamedTuple):
    """The instructions of one line of a kernel that reads or writes F or dF."""

    what: str  # "load features", "load grad", "store grad"
    line: int
    widths: tuple[int, ...]  # bytes of each instruction
    thread_bytes: int  # what one thread has to move there, at least


def accesses(ttgir: str, code: str, threads: int) -> tuple[tuple[Access, ...], dict[int, int]]:
    """The accesses to the maps, and how many others there are of each width."""
    widths: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for operation, file, line, width in _instructions(code):
        widths[operation, file, line].append(width)
    thread_bytes: Counter[tuple[str, str, str, int]] = Counter()
    for operation, argument, file, line, tile_bytes in _pointer_uses(ttgir):
        if argument in MAPS:
            thread_bytes[argument, operation, file, line] += -(-tile_bytes // threads)
    maps = [
        Access(f"{operation} {argument}", line, tuple(widths.pop((operation, file, line), ())), needed)
        for (argument, operation, file, line), needed in sorted(thread_bytes.items(), key=lambda use: use[0][3])
    ]
    return tuple(maps), dict(Counter(width for rest in widths.values() for width in rest))


def _pointer_uses(ttgir: str) -> Iterator[tuple[str, str, str, int, int]]:
    """Loads and stores: which it is, the kernel's argument it accesses, file and line, bytes of the tile."""
    locations = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttgir, re.MULTILINE))
    head = next(line for line in ttgir.splitlines() if "tt.func public" in line)
    made_from = {argument: argument for argument in re.findall(r"%(\w+): ", head)}
    of_pointer = re.compile(
        r"%(\w+) = (?:tt\.(?:addptr|splat|broadcast|expand_dims|bitcast)|ttg\.convert_layout) %(\w+)"
    )
    amd_use = re.compile(r"\b\w+\.buffer_(load|store) .*?%(\w+)\[")
    for line in ttgir.splitlines():
        if pointer := of_pointer.search(line):  # in order, since blocks that follow one another may use the same names
            made_from[pointer.group(1)] = made_from.get(pointer.group(2), "")
        elif use := re.search(r"\btt\.(load|store) %(\w+)", line) or amd_use.search(line):
            argument = made_from[use.group(2)]
            assert argument, line
            location = re.search(r"loc\((#loc\d*)\)$", line).group(1)  # type: ignore[union-attr]
            yield use.group(1), argument, *_position(location, locations), _tile_bytes(line)


def _position(location: str, locations: dict[str, str]) -> tuple[str, int]:
    """File and line; of an inlined function, where the function says it."""
    while location.startswith("#"):
        location = locations[location]
        location = re.sub(r'^(?:callsite\((#loc\d*) at .*|"\w+"\((#loc\d*)\))$', r"\1\2", location)
    file, line, _ = re.fullmatch(r'"(.*)":(\d+):(\d+).*', location).groups()  # type: ignore[union-attr]
    return file, int(line)


def _tile_bytes(line: str) -> int:
    # AMD's accesses have the pointer's type since Triton 3.9; before, that of the values alone.
    element = (re.findall(r"!tt\.ptr<[a-z]+(\d+)", line) or re.findall(r"tensor<(?:\d+x)*[a-z]+(\d+)", line))[-1]
    shapes = re.findall(r"tensor<((?:\d+x)*)", line)
    return prod(int(size) for size in shapes[-1].split("x")[:-1]) * int(element) // 8 if shapes else int(element) // 8


def _instructions(code: str) -> Iterator[tuple[str, str, int, int]]:
    """Instructions that access global memory: "load" or "store", file and line, bytes."""
    files = {
        number: "/".join(re.findall(r'"(.*?)"', path)) for number, path in re.findall(r"\.file\s+(\d+) (.*)", code)
    }
    file, number, lines_of_assembly = "", 0, 0
    for line in code.splitlines():
        if "inline asm" in line:
            lines_of_assembly = int("begin" in line)
        elif location := re.match(r"\s*\.loc\s+(\d+) (\d+)", line):
            # LLVM counts on from one line of inline assembly to the next, as if they were lines of the kernel.
            if lines_of_assembly < 2:
                file, number = files[location.group(1)], int(location.group(2))
            lines_of_assembly += lines_of_assembly > 0
        elif ptx := re.search(r"\b(ld|st)\.global((?:\.[\w:]+)*)", line):
            vector, bits = re.fullmatch(r".*?(?:\.v(\d))?\.[busf](\d+)", ptx.group(2)).groups()  # type: ignore[union-attr]
            yield {"ld": "load", "st": "store"}[ptx.group(1)], file, number, int(vector or 1) * int(bits) // 8
        elif amd := re.match(r"\s*(?:global|buffer|flat)_(load|store)_[us]?(byte|short|dword)(?:x(\d))?", line):
            yield amd.group(1), file, number, _AMD_BYTES[amd.group(2)] * int(amd.group(3) or 1)
