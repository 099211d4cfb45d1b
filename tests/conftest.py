"""Settings of every test."""

import os

import hypothesis
import pytest
import torch

# Decided when the kernels are imported: on a machine without a GPU Triton interprets them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)

# Examples follow from the test's name alone, so a failure on one machine is a failure on every other.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Tests that draw from the default generator draw the same numbers in any order of the tests."""
    torch.manual_seed(0)
