"""The table of `make mutants` is true to the package: every fault still applies, and names tests that are there."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("mutants", ROOT / ".ci" / "mutants.py")
mutants = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(mutants)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.why}")
def test_each_fault_applies(mutant, tmp_path):
    path = tmp_path / "mcl_triton" / mutant.file
    path.parent.mkdir(parents=True)
    path.write_text((ROOT / "mcl_triton" / mutant.file).read_text(encoding="utf-8"), encoding="utf-8")
    mutants.apply(mutant, tmp_path)
    ast.parse(path.read_text(encoding="utf-8"))
    files = [word for word in mutant.test.split() if word.endswith(".py")]
    assert files
    assert all((ROOT / "tests" / "package" / file).is_file() for file in files)


def test_no_line_of_the_table_is_left_out():
    lines = (ROOT / ".ci" / "mutants.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line and line[0] not in "-+#"]) == len(mutants.MUTANTS)
    of_faults = [text for mutant in mutants.MUTANTS for text in (mutant.old, mutant.new) if text]
    assert len([line for line in lines if line and line[0] in "-+"]) == sum(text.count("\n") + 1 for text in of_faults)


def test_text_that_is_gone_is_refused(tmp_path):
    (tmp_path / "mcl_triton").mkdir()
    (tmp_path / "mcl_triton" / "loss.py").write_text("once once", encoding="utf-8")
    for old in ("never", "once"):
        with pytest.raises(ValueError, match=r"loss\.py has .* times, not once"):
            mutants.apply(mutants.Mutant("loss.py", old, "x", "test_loss.py", "a test of the table"), tmp_path)
