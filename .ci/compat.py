"""Run the tests on the oldest and the newest versions, and write the outcome to docs/promises.md: `make compat`.

Oldest are the lower bounds of pyproject.toml on the oldest Python that is here, newest is what pip finds on the newest.
Each gets an environment of its own in build/compat/, which the first run fills in some minutes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from xml.etree import ElementTree

from dependency_groups import resolve
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"
PLACE = ROOT / "build" / "compat"
SHOWN = {"torch": "PyTorch", "triton": "Triton", "torchvision": "torchvision", "numpy": "NumPy", "scipy": "SciPy"}
SHOWN |= {"matplotlib": "Matplotlib", "pillow": "Pillow", "pytest": "pytest", "hypothesis": "Hypothesis"}

VERSIONS = """
import platform, sys
from importlib.metadata import version
print(platform.python_version(), *map(version, sys.argv[1:]))
"""

# The page says why.
LEFT_OUT = (
    "bench/test_compiled",
    "bench/test_inductor",
    "bench/test_launches",
    "package/test_package",
    "bench/test_static",
    "bench/test_traffic",
    "reference/test_train",
    "reference/test_train_distributed",
)


@dataclass(frozen=True)
class Outcome:
    """The result of the tests in one environment: versions by name, and how many tests passed, failed, were skipped."""

    versions: dict[str, str]
    passed: int
    failed: list[str]
    skipped: int


def main() -> None:
    pythons = installed_pythons()
    environments = {
        "oldest": environment("oldest", pythons[0], lower_bounds()),
        "newest": environment("newest", pythons[-1], []),
    }
    with ThreadPoolExecutor() as executor:  # most tests keep one core busy
        outcomes = dict(zip(environments, executor.map(outcome_of, environments.values()), strict=True))
    lines = table(outcomes)
    print("\n".join(lines))
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped")
    page = PAGE.read_text(encoding="utf-8")
    filled = re.sub(
        r"(<!-- table: compatibility -->)\n.*?(<!-- end -->)",
        lambda found: "\n".join([found[1], *lines, found[2]]),
        page,
        flags=re.DOTALL,
    )
    PAGE.write_text(filled, encoding="utf-8")
    sys.exit(any(outcome.failed for outcome in outcomes.values()))


def installed_pythons() -> list[str]:
    """The interpreters on PATH among those that the package is made for, oldest first; at least this one."""
    classifiers = metadata("mcl-triton").get_all("Classifier") or []
    names = [f"python{found[1]}" for text in classifiers if (found := re.search(r":: Python :: (3\.\d+)$", text))]
    there = [
        name
        for name in names
        if shutil.which(name) and not subprocess.run([name, "-c", ""], capture_output=True).returncode
    ]
    return there or [sys.executable]


def lower_bounds() -> list[str]:
    """Constraints for pip: the oldest version of each requirement that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = [*project["project"]["dependencies"], *resolve(project["dependency-groups"], "dev", "docs")]
    return sorted(
        {
            f"{requirement.name}=={bound.version}"
            for requirement in map(Requirement, requirements)
            for bound in requirement.specifier
            if bound.operator == ">="
        }
    )


def environment(name: str, python: str, constraints: list[str]) -> Path:
    """The Python of an environment with the package, what its tests need, and nothing that breaks a constraint."""
    place = PLACE / name
    print(f"{name}: {python}, in {place.relative_to(ROOT)}", flush=True)
    subprocess.run([python, "-m", "venv", place], check=True)
    file = place / "constraints.txt"
    file.write_text("\n".join(constraints))
    tools = ("pytest", "pytest-randomly", "pytest-xdist", "hypothesis", "sybil", "markdown-it-py", "pre-commit")
    pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade", "--constraint", file)
    subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, "--editable", ".", "--group", "bench", *tools], check=True, cwd=ROOT)
    return place / "bin" / "python"


def outcome_of(python: Path) -> Outcome:
    """Run the tests with an interpreter, from the root of the repository."""
    report = python.parents[1] / "report.xml"
    report.unlink(missing_ok=True)
    ignored = [f"--ignore=tests/{name}.py" for name in LEFT_OUT]
    pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *ignored)
    subprocess.run(pytest, check=False, cwd=ROOT)
    if not report.exists():
        sys.exit(f"the tests did not run with {python}")
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    versions = subprocess.check_output([python, "-c", VERSIONS, *SHOWN], text=True).split()
    named = dict(zip(["Python", *SHOWN.values()], versions, strict=True))
    return Outcome(named, len(cases) - len(failed) - skipped, failed, skipped)


def table(outcomes: dict[str, Outcome]) -> list[str]:
    """A column for each environment, a row for each version, and what came of the tests."""
    rows = [["", *outcomes]]
    rows += [
        [name, *(outcome.versions[name] for outcome in outcomes.values())]
        for name in next(iter(outcomes.values())).versions
    ]
    rows.append(["tests", *("; ".join(map("fails: {}".format, of.failed)) or "all pass" for of in outcomes.values())])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


if __name__ == "__main__":
    main()
