"""Build the wheel and the sdist, and use them without the repository: `make package`.

The environments that the wheel is installed into see the packages that are installed here, by links, so that nothing
large is fetched: all but mcl_triton, and in one of them all but Triton, and NumPy, which Triton's interpreter needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable

# With py.typed mypy knows the types of what is installed; were a line not found wrong, its comment would be.
PROGRAM = """
import torch
from mcl_triton import ChannelGroups, MCLoss, MCLossOutput, mc_loss

groups = ChannelGroups.split(7, 3)
output: MCLossOutput = mc_loss(torch.rand(2, 7, 3, 3), torch.tensor([0, 1]), groups)
loss: torch.Tensor = output.loss
number: float = MCLoss(groups)(torch.rand(2, 7, 3, 3), torch.tensor([0, 1]))  # type: ignore[assignment]
mc_loss(torch.rand(2, 7, 3, 3), torch.tensor([0, 1]), [3, 3, 1])  # type: ignore[arg-type]
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        run(PYTHON, "-m", "build", "--outdir", place / "dist", ROOT)  # the wheel from the sdist
        run(PYTHON, "-m", "build", "--wheel", "--outdir", place / "from-tree", ROOT)
        (sdist,) = (place / "dist").glob("*.tar.gz")
        (wheel,) = (place / "dist").glob("*.whl")
        run(PYTHON, "-m", "twine", "check", "--strict", sdist, wheel)
        check_wheel(wheel)
        check_sdist(sdist)
        assert contents(wheel) == contents(place / "from-tree" / wheel.name), "the sdist builds another wheel"
        for name, without in (("with-triton", ()), ("without-triton", ("triton", "numpy"))):
            python = environment(place / name, wheel, without)
            run(python, "-I", ROOT / ".ci" / "smoke.py", name, cwd=place)
            print(f"{wheel.name} {name.replace('-', ' ')}: works")
        check_types(place, place / "with-triton" / "bin" / "python")
        print(f"{wheel.name}: its types reach the user")


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command; what it prints is shown where it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def check_wheel(wheel: Path) -> None:
    """The package and its metadata, and nothing else; a description without a link into the repository."""
    files = contents(wheel)
    (metadata,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    about = metadata.removesuffix("METADATA")
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mcl_triton").rglob("*")
        if path.suffix in (".py", ".typed")
    }
    expected = package | {about + name for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    assert set(files) == expected, f"more or less than expected: {sorted(set(files) ^ expected)}"
    description = message_from_bytes(files[metadata]).get_payload()
    dead = re.findall(r"""\]\((?!https?:|\#)[^)]*\)|(?:src|href|srcset)=["'](?!https?:|\#)[^"']*""", str(description))
    assert not dead, f"dead where the repository is not: {dead}"


def check_sdist(sdist: Path) -> None:
    """All that is under version control, so that its tests run, and nothing else."""
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()} - {"PKG-INFO"}
    if (ROOT / ".git").exists():
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
        expected = set(listed.split("\0")) - {""}
        assert files == expected, f"more or less than expected: {sorted(files ^ expected)}"
    assert {"LICENSE", "README.md", "CHANGELOG.md", "tests/conftest.py"} <= files


def environment(place: Path, wheel: Path, without: tuple[str, ...]) -> Path:
    """The Python of a new virtual environment with the wheel, and what is installed here but for some packages."""
    run(PYTHON, "-m", "venv", "--without-pip", place)
    links = place / "links"
    links.mkdir()
    for folder in (Path(entry) for entry in sys.path if Path(entry).name == "site-packages"):
        for path in folder.iterdir():
            link = links / path.name
            if re.split(r"[-.]", path.name)[0] not in ("mcl_triton", *without) and not link.exists():
                link.symlink_to(path)
    (own,) = (place / "lib").glob("python*/site-packages")
    (own / "links.pth").write_text(f"{links}\n")
    python = place / "bin" / "python"
    run(PYTHON, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    return python


def check_types(place: Path, python: Path) -> None:
    program = place / "program.py"
    program.write_text(PROGRAM)
    mypy = (PYTHON, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", ROOT / ".mypy_cache")
    run(*mypy, "--python-executable", python, program, cwd=place)


if __name__ == "__main__":
    main()
