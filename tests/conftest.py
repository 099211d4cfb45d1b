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

# Packages of which some machines that run these tests have none, such as a lent GPU without a network.
OPTIONAL = [name for name in ("sybil", "tyro", "pandas", "fontpkg", "fontTools") if find_spec(name) is None]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skip a file that imports an optional package which is missing; the summary has the reason."""
    report = yield
    missing = [name for name in OPTIONAL if f"No module named '{name}" in str(report.longrepr)]
    if report.outcome == "failed" and missing:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs the package {missing[0]}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Likewise a test."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OPTIONAL:
            pytest.skip(f"needs the package {error.name}")
        raise


# Examples follow from the test's name alone, so a failure on one machine is a failure on every other.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def same_start():
    """Every test draws the same numbers on as many threads, in any order of the tests."""
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)
