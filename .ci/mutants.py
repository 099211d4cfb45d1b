"""Put plausible faults into the package, one at a time, and see that a test fails for each: `make mutants`.

Every fault is applied in a copy of the repository and judged by the tests that it names. A fault that no test notices
is a test that is missing. Rows follow the package: `tests/package/test_mutants.py` fails where one no longer applies.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("mcl_triton", "reference", "bench", "tests", "pyproject.toml")
SECONDS = 900  # that the tests of one fault may take; one that never ends is noticed as well
# Each test runs in a fork of a process that has imported what takes long.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "numpy", "hypothesis", "pytest"])


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        file: in `mcl_triton`.
        old, new: the text, found exactly once, and what takes its place.
        test: in `tests/package`, and pytest's words to choose among its tests: at least one must fail.
        why: what would go wrong.
    """

    file: str
    old: str
    new: str
    test: str
    why: str


MUTANTS = [
    # Groups
    Mutant(
        "groups.py",
        "[size] * (num_classes - larger) + [size + 1] * larger",
        "[size + 1] * larger + [size] * (num_classes - larger)",
        "test_groups.py",
        "larger groups first",
    ),
    Mutant(
        "groups.py",
        "accumulate(checked[:-1], initial=0)",
        "accumulate(checked[1:], initial=0)",
        "test_groups.py",
        "offsets one class late",
    ),
    Mutant(
        "groups.py",
        '"is_uniform": len(runs) == 1',
        '"is_uniform": len(runs) <= 2',
        "test_loss.py",
        "ragged groups weighted as uniform",
    ),
    Mutant(
        "groups.py",
        "return self.runs == other.runs",
        "return self.num_channels == other.num_channels",
        "test_groups.py",
        "groups of as many channels are equal",
    ),
    Mutant("groups.py", "if isinstance(value, bool):", "if value is None:", "test_bad_input.py", "True is 1 channel"),
    Mutant(
        "groups.py",
        "        if size < 1:",
        "        if size < 0:",
        "test_bad_input.py",
        "a class without a channel",
    ),
    Mutant(
        "groups.py",
        "if num_channels < num_classes:",
        "if num_channels <= num_classes:",
        "test_groups.py",
        "one channel per class refused",
    ),
    Mutant(
        "groups.py",
        "@constant_result\ndef flat_runs",
        "def flat_runs",
        "test_compile.py -k groups_are_constants",
        "other groups make numbers symbolic under torch.compile",
    ),
    # Checks
    Mutant(
        "checks.py",
        "isinstance(value, (bool, str, bytes))",
        "isinstance(value, bytes)",
        "test_bad_input.py -k settings",
        "weights of truth values and strings",
    ),
    Mutant(
        "checks.py",
        "isinstance(label_smoothing, bool) or not",
        "not",
        "test_bad_input.py -k settings",
        "label_smoothing=True is 1.0",
    ),
    Mutant(
        "checks.py",
        "is_wrong = ~((values >= 0) & (values < math.inf))",
        "is_wrong = values < 0",
        "test_bad_input.py -k targets",
        "NaN and infinity pass as probabilities",
    ),
    Mutant(
        "checks.py",
        "is_wrong = (targets != ignore_index) & ((targets < 0) | (targets >= classes))",
        "is_wrong = (targets != ignore_index) & ((targets < 0) | (targets > classes))",
        "test_bad_input.py -k targets",
        "the label C, of labels that count from 1",
    ),
    Mutant(
        "checks.py",
        "is_wrong = (targets != ignore_index) & (",
        "is_wrong = (",
        "test_bad_input.py",
        "ignored targets refused",
    ),
    Mutant(
        "checks.py",
        "if not (0 <= first < math.inf and 0 <= second < math.inf):",
        "if not (0 <= first < math.inf and second < math.inf):",
        "test_bad_input.py -k settings",
        "a negative weight turns diversity around",
    ),
    Mutant(
        "checks.py",
        "not ((mask == 0) | (mask == 1)).all()",
        "not (mask <= 1).all()",
        "test_mask.py test_bad_input.py",
        "masks of other numbers",
    ),
    Mutant(
        "checks.py",
        "    if mask.requires_grad:",
        "    if mask is None:",
        "test_bad_input.py -k mask",
        "a mask whose gradient is dropped in silence",
    ),
    Mutant("checks.py", "    if 0 in shape:", "    if shape[0] == 0:", "test_bad_input.py -k features", "no position"),
    Mutant(
        "checks.py",
        "    if torch.jit.is_tracing():",
        "    if not torch:",
        "test_compile.py -k jit",
        "traced into a graph of one size",
    ),
    Mutant(
        "checks.py",
        'hasattr(value, "to_local")',
        'hasattr(value, "local")',
        "test_distributed.py -k refused",
        "distributed tensors fail inside an operator",
    ),
    Mutant(
        "checks.py",
        "    if is_differentiated_by_functorch(features):",
        "    if features is None:",
        "test_compile.py -k functional_gradients",
        "gradients of zero under torch.func",
    ),
    Mutant(
        "checks.py",
        "unpack_dual(features).tangent is not None",
        "unpack_dual(features).tangent is True",
        "test_compile.py -k forward_mode",
        "tangents dropped",
    ),
    # Channel-wise attention
    Mutant(
        "attention.py",
        "return tuple(size // 2 for size in groups.sizes)",
        "return tuple((size + 1) // 2 for size in groups.sizes)",
        "test_mask.py",
        "drops the larger half",
    ),
    Mutant(
        "attention.py",
        "fraction = Fraction(repr(drop))",
        "fraction = Fraction(drop)",
        "test_mask.py",
        "0.29 of 100 channels is 28",
    ),
    Mutant(
        "attention.py",
        "if not 0 <= drop < 1:",
        "if not 0 <= drop <= 1:",
        "test_mask.py test_bad_input.py",
        "drops everything",
    ),
    Mutant(
        "attention.py",
        "if not 0 <= number < size:",
        "if not 0 <= number <= size:",
        "test_mask.py test_bad_input.py",
        "a class loses all its channels",
    ),
    Mutant(
        "attention.py",
        "is_kept = place_in_group >= of_each_channel(dropped)",
        "is_kept = place_in_group > of_each_channel(dropped)",
        "test_mask.py",
        "drops one more",
    ),
    Mutant(
        "attention.py",
        "of_each_channel(range(groups.num_classes)) << _RANDOM_BITS",
        "of_each_channel(range(groups.num_classes)) << (_RANDOM_BITS - 1)",
        "test_mask.py",
        "the keys of neighbouring classes overlap",
    ),
    Mutant(
        "attention.py", "_RANDOM_BITS = 40", "_RANDOM_BITS = 2", "test_mask.py", "equal keys favour the later channels"
    ),
    Mutant(
        "attention.py",
        "torch.randint(1 << _RANDOM_BITS, shape, device=device, generator=generator)",
        "torch.randint(1 << _RANDOM_BITS, shape, device=device)",
        "test_mask.py",
        "the generator is not used",
    ),
    Mutant(
        "attention.py",
        "is_kept.to(dtype).expand(shape)",
        "(~is_kept).to(dtype).expand(shape)",
        "test_mask.py",
        "keeps what it should drop",
    ),
    Mutant(
        "attention.py",
        "        drop = constant(drop)\n",
        "        pass\n",
        "test_compile.py -k a_drop_that",
        "a drop that changes cannot be compiled",
    ),
    # What is kept
    Mutant(
        "tracing.py",
        "(make_ordinary if is_transformed() else cached)",
        "cached",
        "test_kept_tables.py",
        "tables of a transform are kept",
    ),
    Mutant(
        "tracing.py",
        " or torch._C._are_functorch_transforms_active()\n",
        "\n",
        "test_kept_tables.py",
        "tables that functionalize has wrapped are kept",
    ),
    Mutant(
        "tracing.py",
        "lru_cache(maxsize=None, typed=True)",
        "lru_cache(maxsize=None)",
        "test_mask.py",
        "the table of 1 serves for 1.0",
    ),
    Mutant(
        "tracing.py",
        "with torch.inference_mode(False):",
        "with torch.no_grad():",
        "test_kept_tables.py test_mask.py",
        "tables of inference mode cannot take part in training",
    ),
    Mutant(
        "tracing.py",
        "(Tensor, Parameter)",
        "(Tensor, Parameter, type(tensor))",
        "test_short_way.py test_compile.py",
        "subclasses of tensors go past the dispatcher",
    ),
    Mutant(
        "tracing.py",
        "tensor.is_neg()",
        "False",
        "test_short_way.py test_pool.py test_kernels.py -k neg",
        "negative views read as they lie in memory",
    ),
    # The backend
    Mutant(
        "backend.py",
        "return torch.float64 if features.dtype == torch.float64 else torch.float32",
        "return torch.float32",
        "test_pool.py -k kind",
        "float64 computed in float32",
    ),
    Mutant(
        "backend.py",
        "_OLDEST_CAPABILITY = (7, 0)",
        "_OLDEST_CAPABILITY = (6, 0)",
        "test_backends.py",
        "a GPU that Triton does not support",
    ),
    Mutant(
        "backend.py",
        "return capability >= _OLDEST",
        "return capability > _OLDEST",
        "test_backends.py",
        "the oldest GPU goes without kernels",
    ),
    Mutant("backend.py", "torch.version.hip is not None or ", "", "test_backends.py", "ROCm by NVIDIA's numbers"),
    Mutant("backend.py", "@cache\n", "", "test_backends.py", "warns in every step"),
    # The loss
    Mutant("loss.py", "-first * second", "first * second", "test_loss.py", "sign of diversity"),
    Mutant(
        "loss.py",
        "second / groups.sizes[0]",
        "second",
        "test_loss.py",
        "h is not divided by ξ",
    ),
    Mutant(
        "loss.py",
        "-first * second",
        "-second",
        "test_loss.py",
        "λ without μ",
    ),
    Mutant(
        "loss.py",
        "drop=self.drop if self.training else 0",
        "drop=self.drop",
        "test_module.py",
        "evaluation drops channels",
    ),
    Mutant(
        "loss.py",
        "            label_smoothing=label_smoothing,\n        )\n    else",
        "        )\n    else",
        "test_loss.py",
        "label smoothing is not passed on",
    ),
    Mutant(
        "loss.py",
        "            ignore_index=ignore_index,\n            label",
        "            label",
        "test_loss.py",
        "ignored samples count",
    ),
    Mutant(
        "loss.py",
        "if mask is None and drop != 0:",
        "if drop != 0:",
        "test_loss.py test_mask.py test_module.py",
        "a random mask in place of the one given",
    ),
    Mutant(
        "loss.py",
        "if first_weight or not second_weight:",
        "if first_weight:",
        "test_loss.py",
        "a loss of two zero weights has no graph",
    ),
    Mutant("loss.py", "    if second_weight:\n", "    if True:\n", "test_loss.py", "a backward of nothing is computed"),
    Mutant("loss.py", "persistent=False)", "persistent=True)", "test_module.py", "checkpoints hold class weights"),
    # Class maps
    Mutant(
        "maps.py",
        "torch.minimum(place, size - 1)",
        "torch.minimum(place, size)",
        "test_maps.py",
        "the next class's first channel",
    ),
    Mutant("maps.py", "maps.masked_fill(is_padding, 0)", "maps", "test_maps.py", "small groups are not filled up"),
    Mutant(
        "maps.py",
        "largest >= groups.num_classes",
        "largest > groups.num_classes",
        "test_maps.py test_bad_input.py",
        "a class past the last",
    ),
    # The operators
    Mutant(
        "operators.py",
        " and not torch.is_grad_enabled()",
        "",
        "test_pool.py test_short_way.py",
        "a second derivative of zero",
    ),
    Mutant(
        "operators.py",
        "ctx.set_materialize_grads(False)\n    ctx.mark",
        "ctx.mark",
        "test_pool.py test_kernels.py test_loss.py",
        "zeros take the place of gradients that are not there",
    ),
    Mutant(
        "operators.py",
        "features.new_empty(shape if wants_diversity else (0,), dtype=dtype)",
        "features.new_empty(shape if wants_diversity else (0,))",
        "test_compile.py -k operator",
        "fake results of another dtype",
    ),
    # The CPU
    Mutant(
        "eager.py",
        "attended = x if kept is None else torch.mul(x, kept[block.channels], out=buffer)",
        "attended = x",
        "test_pool.py",
        "the scores see no mask",
    ),
    Mutant(
        "eager.py",
        "added = added * kept.expand_as(groups).gather(2, index)",
        "pass",
        "test_pool.py",
        "masked winners have a gradient",
    ),
    Mutant(
        "eager.py",
        "grad_scores[block.classes] / out.shape[2]",
        "grad_scores[block.classes]",
        "test_pool.py",
        "GAP's gradient is not divided by P",
    ),
    Mutant(
        "eager.py",
        "torch.ops.aten._softmax_backward_data(out, attention[block.channels], 2, dtype, grad_input=out)",
        "out.mul_(attention[block.channels])",
        "test_pool.py",
        "the gradient of the softmax's sum is dropped",
    ),
    Mutant(
        "eager.py",
        "        out.zero_()\n",
        "",
        "test_pool.py",
        "gradients are added to what memory held",
    ),
    Mutant(
        "eager.py",
        "maxima.sum().isnan()",
        "False",
        "test_pool.py",
        "of several NaNs the last one wins",
    ),
    Mutant(
        "eager.py",
        "if max(runs[1::2]) <= 256",
        "if max(runs[1::2]) <= 1024",
        "test_pool.py",
        "a class of more than 256 channels wins at the wrong ones",
    ),
    Mutant(
        "eager.py",
        "if saves and not block.is_view:",
        "if False:",
        "test_pool.py",
        "interleaved classes save no softmax",
    ),
    Mutant(
        "eager.py",
        "return [slice(end - length, end)",
        "return [slice(end - length, end - 1)",
        "test_pool.py",
        "blocks leave out their last classes",
    ),
    Mutant(
        "eager.py",
        "x = _LayoutOfGradient.apply(features)",
        "x = features",
        "test_compile.py",
        "compiled, the gradient has another layout",
    ),
    Mutant(
        "eager.py",
        "attended = x if mask is None else x * mask.unsqueeze(-1)",
        "attended = x",
        "test_compile.py",
        "compiled, the scores see no mask",
    ),
    # The kernels
    Mutant(
        "kernels/arithmetic.py",
        "propagate_nan=tl.PropagateNan.ALL",
        "propagate_nan=tl.PropagateNan.NONE",
        "test_kernels.py",
        "the maximum hides NaN",
    ),
    Mutant(
        "kernels/arithmetic.py",
        "(program // num_tiles).to(tl.int64)",
        "program // num_tiles",
        "test_kernels.py",
        "offsets overflow beyond 2^31 elements",
    ),
    Mutant(
        "kernels/arithmetic.py",
        "tl.float64 if pointer_dtype == tl.float64 else tl.float32",
        "tl.float32",
        "test_kernels.py",
        "float64 computed in float32",
    ),
    Mutant(
        "kernels/arithmetic.py",
        "(tl.arange(0, LAYERS)[:, None, None] * COLUMNS + columns).to(tl.int64)",
        "tl.arange(0, LAYERS)[:, None, None] * COLUMNS + columns",
        "test_kernels.py -k far_apart",
        "positions far apart overflow int32",
    ),
    Mutant(
        "kernels/whole_maps.py",
        'in_map, other=float("-inf")).to(dtype)',
        "in_map, other=0.0).to(dtype)",
        "test_kernels.py -k sizes",
        "what lies outside of a map takes part in its softmax",
    ),
    Mutant(
        "kernels/whole_maps.py",
        "nan_maximum(highest_a, x + 0.0)",
        "nan_maximum(highest_a, x)",
        "test_kernels.py -k ties",
        "0 after -0 is a new maximum",
    ),
    Mutant(
        "kernels/whole_maps.py",
        "channel = (first_channel + step * STEP).to(tl.int64)",
        "channel = first_channel + step * STEP",
        "test_kernels.py -k far_apart",
        "channels far apart overflow int32",
    ),
    Mutant(
        "kernels/whole_maps.py",
        "size = tl.cdiv(tl.load(piece + 2) - rows, ROWS)",
        "size = (tl.load(piece + 2) - rows) // ROWS",
        "test_kernels.py -k pieces",
        "the last channels of a piece are left out",
    ),
    Mutant(
        "kernels/whole_maps.py",
        "tl.min(tl.where(is_highest, places, 2147483647), AXIS",
        "tl.max(tl.where(is_highest, places, -1), AXIS",
        "test_kernels.py -k ties",
        "of equal rows the last one wins",
    ),
    Mutant(
        "kernels/whole_maps.py",
        "(values == highest) | (values != values)",
        "values == highest",
        "test_kernels.py -k finite",
        "NaN wins and has no place",
    ),
    Mutant(
        "kernels/whole_maps.py",
        "place_h, place_g = unpack",
        "place_g, place_h = unpack",
        "test_kernels.py -k pieces",
        "the parts' winners of g and h change places",
    ),
    Mutant(
        "kernels/gradient.py",
        "dF += tl.where(is_winner(packed, j, PLACE_BITS, PLACE_BITS)",
        "dF += tl.where(is_winner(packed, j, 0, PLACE_BITS)",
        "test_kernels.py -k kinds",
        "the winners of h take the gradient of g",
    ),
    Mutant(
        "kernels/gradient.py",
        "dh - w, -w)",
        "dh, 0.0)",
        "test_kernels.py -k kinds",
        "the normalisation of the softmax has no gradient",
    ),
    Mutant(
        "kernels/gradient.py",
        "mask=inside, other=-1)  # no place",
        "mask=inside, other=0)",
        "test_infinite_gradients.py",
        "the first channel wins what lies outside: infinity times 0",
    ),
    Mutant(
        "kernels/position_blocks.py",
        "sums * exponential(maxima, reference) + ",
        "sums + ",
        "test_kernels.py -k large_maps",
        "sums for another maximum are added",
    ),
    Mutant(
        "kernels/position_blocks.py",
        'tl.where(maximum == float("-inf"), 0.0, maximum)',
        "maximum",
        "test_kernels.py -k finite",
        "NaN where a thread has seen -inf alone",
    ),
    Mutant(
        "kernels/position_blocks.py",
        "(block * tl.full([], batch, tl.int64) + sample)",
        "(block + sample)",
        "test_kernels.py -k large_maps",
        "blocks write over one another",
    ),
    Mutant(
        "kernels/launch.py",
        "if longest < 1 << bits",
        "if longest <= 1 << bits",
        "test_launch_shapes.py -k compile",
        "the last place of 16 means that nobody wins",
    ),
    Mutant(
        "kernels/launch.py",
        "pieces += [number, begin, stop - begin, parts + index if count > 1 else -1]",
        "pieces += [number, begin, stop - begin, parts if count > 1 else -1]",
        "test_launch_shapes.py -k piece",
        "the parts of a class write over one another",
    ),
    Mutant(
        "kernels/host.py",
        "combine if pieces.num_parts else None",
        "None",
        "test_kernels.py -k pieces",
        "the parts of a class are never put together",
    ),
    Mutant(
        "kernels/masks.py",
        "(other_key == own_key) & (other_place < place)",
        "(other_key == own_key)",
        "test_mask.py",
        "a channel is before itself",
    ),
    Mutant(
        "kernels/masks.py",
        "rank >= num_dropped[:, None]",
        "rank > num_dropped[:, None]",
        "test_mask.py",
        "drops one more",
    ),
    Mutant(
        "kernels/masks.py",
        "keys + sample * num_channels + first_channel",
        "keys + first_channel",
        "test_mask.py",
        "every sample's mask is the first one's",
    ),
]


def apply(mutant: Mutant, root: Path) -> None:
    """Write the fault into the package in a folder; ValueError where its text is not there exactly once."""
    path = root / "mcl_triton" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times, not once ({mutant.why})")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


@contextmanager
def copy_of_repository() -> Iterator[Path]:
    """A folder with all that the tests of the package need."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
            else:
                shutil.copy(source, root / name)
        yield root


def run_tests(test: str, root: Path) -> NoReturn:
    """Run the tests of a row in a copy until one fails, and exit as pytest does: the work of a process of its own."""
    os.chdir(root)
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
    with (root / "tests.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    words = [f"tests/package/{word}" if word.endswith(".py") else word for word in test.split()]
    sys.exit(pytest.main(["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *words]))


def outcome(test: str, mutant: Mutant | None) -> str:
    """Run the tests with a fault, or without any: "killed", "survived", or "broken" where no test could run."""
    with copy_of_repository() as root:
        if mutant is not None:
            apply(mutant, root)
        process = FORKS.Process(target=run_tests, args=(test, root))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            return "killed"
        return {0: "survived", 1: "killed"}.get(process.exitcode, "broken")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose file, test or reason contains this")
    parser.add_argument("--jobs", type=int, default=2, help="faults that are judged at a time")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if any(arguments.only in part for part in (mutant.file, *mutant[3:]))]
    counts = dict.fromkeys(("killed", "survived", "broken", "failing without"), 0)

    def judge(mutant: Mutant) -> tuple[str, float]:
        start = time.monotonic()
        return outcome(mutant.test, mutant), time.monotonic() - start

    with ThreadPoolExecutor(arguments.jobs) as executor:
        for mutant, (found, seconds) in zip(chosen, executor.map(judge, chosen), strict=True):
            counts[found] += 1
            print(f"{found:9} {seconds:4.0f} s  {mutant.file:24} {mutant.test:44} {mutant.why}", flush=True)
        tests = sorted({mutant.test for mutant in chosen})
        for test, found in zip(tests, executor.map(lambda test: outcome(test, None), tests), strict=True):
            if found != "survived":
                counts["failing without"] += 1
                print(f"{test} fails without a fault, and so says nothing about one")
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    return int(counts["killed"] < len(chosen) or counts["failing without"] > 0)


if __name__ == "__main__":
    sys.exit(main())
