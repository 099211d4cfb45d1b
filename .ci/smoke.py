"""Use the installed package: run by package.py, with an interpreter that has the wheel.

Usage: python -I smoke.py (with|without)-triton
"""

import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # where there is no GPU, and read when the kernels are imported

import torch
from torch.nn.functional import cross_entropy

import mcl_triton
from mcl_triton import ChannelGroups, mc_loss


def plain_loss(features: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1.5 · L_dis + 20 · (1 − mean h/ξ) of two classes of three channels."""
    classes = features.flatten(2).unflatten(1, (2, 3))
    g = (classes * mask.view(2, 3, 1)).amax(dim=2).mean(dim=2)
    h = classes.softmax(dim=3).amax(dim=2).sum(dim=2)
    return 1.5 * cross_entropy(g, targets) + 20 * (1 - h.mean() / 3)


def check(backend: str, device: str) -> None:
    """Value and gradient are those of plain PyTorch."""
    torch.manual_seed(0)
    features = torch.rand(4, 6, 5, 5, device=device, requires_grad=True)
    targets = torch.tensor([0, 1, 1, 0], device=device)
    mask = torch.tensor([1.0, 0, 1, 1, 1, 0], device=device)
    results = []
    for loss in (
        mc_loss(features, targets, ChannelGroups([3, 3]), mask=mask, backend=backend).loss,
        plain_loss(features, targets, mask),
    ):
        results.append((loss, *torch.autograd.grad(loss, features)))
    torch.testing.assert_close(*results)


def main(has_triton: bool) -> None:
    installed = Path(mcl_triton.__file__)
    assert installed.is_relative_to(sys.prefix), f"{installed} is not what was installed in {sys.prefix}"
    assert version("mcl-triton") == mcl_triton.__version__
    for name in ("reference", "bench", "tests", "checks"):
        assert find_spec(name) is None, f"{name} can be imported besides mcl_triton"
    assert (find_spec("triton") is not None) == has_triton
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check("eager", device)
    check("auto", device)
    if has_triton:
        check("triton", device)
        return
    try:
        check("triton", device)
        message = ""
    except ImportError as error:
        message = str(error)
    assert "pip install triton" in message, "without triton the message must say how to get it"


main(has_triton={"with-triton": True, "without-triton": False}[sys.argv[1]])
