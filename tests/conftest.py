"""Settings of every test."""

import os
from importlib.util import find_spec

import hypothesis
import pytest
import torch

# On a machine without a GPU Triton interprets the kernels, which is decided when they are imported.
if not torch.cuda.is_available() and find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"
    from bench.count import interpreter

    interpreter.behave_like_a_gpu()

torch.set_num_threads(1)

# Examples follow from the test's name alone, so a failure on one machine is a failure on every other.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def same_start():
    """Every test draws the same numbers on as many threads, in any order of the tests."""
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)
