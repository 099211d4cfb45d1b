"""The package that is installed holds everything: `pip install .`, not the editable installation of the other tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_installed_package_works(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mcl_triton", source / "mcl_triton", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
    subprocess.run(install, check=True)
    files = {
        path.relative_to(source) for path in (source / "mcl_triton").rglob("*") if path.suffix in (".py", ".typed")
    }
    installed = {path.relative_to(target) for path in (target / "mcl_triton").rglob("*")}
    assert files <= installed
    code = (
        "import torch, mcl_triton\n"
        "features = torch.rand(2, 6, 3, 3, requires_grad=True)\n"
        "groups = mcl_triton.ChannelGroups([3, 3])\n"
        "mcl_triton.mc_loss(features, torch.tensor([0, 1]), groups).loss.backward()\n"
        "print(mcl_triton.__file__)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert Path(found.stdout.strip()).is_relative_to(target)
