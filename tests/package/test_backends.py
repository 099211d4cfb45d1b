"""The choice of the backend, the package without Triton, and what importing it brings along."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from checks import make_features
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mcl_triton import ChannelGroups, MCLoss, backend, channel_pool, class_scores, diversity_scores, mc_loss, pooling

GROUPS = ChannelGroups([3, 1, 2])
TARGETS = torch.tensor([0, 2])


class Operators(TorchDispatchMode):
    """Notes which of our operators were called, and whether by the kernels."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.name().startswith("mcl_triton"):
            self.calls.append((operation.name().removeprefix("mcl_triton::"), args[-1] is True))
        return operation(*args, **(kwargs or {}))


def calls_of(function):
    with Operators() as operators:
        function()
    return operators.calls


# The choice


@pytest.mark.parametrize(
    ("backend", "device", "has_triton", "expected"),
    [
        ("auto", "cuda", True, True),
        ("auto", "cuda:1", True, True),
        ("auto", "cuda", False, False),
        ("auto", "cpu", True, False),
        ("auto", "mps", True, False),
        ("auto", "xpu", True, False),
        ("eager", "cuda", True, False),
        ("eager", "cpu", True, False),
        ("triton", "cuda", True, True),
    ],
)
@pytest.mark.parametrize("interpreted", ["0", "1"])
def test_choice(interpreted, backend, device, has_triton, expected, monkeypatch):
    """The interpreter is for those who ask for the kernels: "auto" never takes it on the CPU."""
    monkeypatch.setattr("mcl_triton.backend._HAS_TRITON", has_triton)
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    assert pooling.uses_kernels(backend, torch.device(device)) is expected


@pytest.fixture
def gpus(monkeypatch):
    """PyTorch as `backend` sees it on a machine with three GPUs, of compute capability 6.1, 7.0 and 9.0."""
    capabilities = [(6, 1), (7, 0), (9, 0)]
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_capability=lambda device: capabilities[device.index],
        get_device_name=lambda device: f"GPU {device.index}",
    )
    pytorch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip=None))
    monkeypatch.setattr(backend, "_HAS_TRITON", True)
    monkeypatch.setattr(backend, "torch", pytorch)
    backend._compare_capability.cache_clear()
    yield pytorch
    backend._compare_capability.cache_clear()


def choices(name, devices):
    """The choice on each device, and the texts of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = [backend.uses_kernels(name, torch.device(device)) for device in devices]
    return chosen, [str(warning.message) for warning in caught]


def test_a_gpu_too_old_for_triton(gpus):
    """It falls back to plain PyTorch, with one warning."""
    chosen, messages = choices("auto", ["cuda:0", "cuda:1", "cuda:2"] * 2)
    assert chosen == [False, True, True] * 2
    (message,) = messages
    for part in ("plain PyTorch on cuda:0", "compute capability 7.0", "GPU 0 has 6.1", 'backend="eager"'):
        assert part in message
    assert choices("eager", ["cuda:0", "cuda:2"]) == ([False, False], [])
    assert choices("triton", ["cuda:0", "cuda:2"]) == ([True, True], [])


def test_rocm_has_no_compute_capability(gpus):
    gpus.version.hip = "6.4"
    assert choices("auto", ["cuda:0"]) == ([True], [])


def test_the_age_of_a_gpu_is_a_constant_of_a_graph(gpus):
    @torch.compile(fullgraph=True, backend="eager")
    def chosen(tensor):
        return tensor + 1 if backend.uses_kernels("auto", torch.device("cuda:0")) else tensor - 1

    with pytest.warns(UserWarning, match="plain PyTorch on cuda:0"):
        assert chosen(torch.zeros(())) == -1


FUNCTIONS = {
    "channel_pool": lambda features, backend: channel_pool(features, GROUPS, backend=backend),
    "class_scores": lambda features, backend: class_scores(features, GROUPS, backend=backend),
    "diversity_scores": lambda features, backend: diversity_scores(features, GROUPS, backend=backend),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    ("backend", "device", "expected"),
    [("auto", "cuda", True), ("triton", "cuda", True), ("eager", "cuda", False), ("auto", "cpu", False)],
)
def test_operators_that_are_called(backend, device, expected, function):
    pytest.importorskip("triton")
    with FakeTensorMode():
        features = torch.empty(2, 6, 4, 5, device=device)
        assert calls_of(lambda: function(features, backend)) == [("channel_pool", expected)]


@pytest.mark.parametrize(("backend", "names"), [("auto", ["channel_mask", "mc_loss"]), ("eager", ["channel_pool"])])
def test_mask_comes_from_the_same_backend(backend, names):
    pytest.importorskip("triton")
    with FakeTensorMode():
        features, targets = torch.empty(2, 6, 4, 5, device="cuda"), torch.zeros(2, dtype=torch.long, device="cuda")
        assert [name for name, _ in calls_of(lambda: MCLoss(GROUPS, backend=backend)(features, targets))] == names


def test_kernels_are_what_runs():
    """``"triton"`` where they are interpreted or compiled is not plain PyTorch in disguise."""
    run = pytest.importorskip("mcl_triton.kernels.host")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = make_features("signed", (2, 6, 3, 4), torch.float32).to(device).requires_grad_()
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("forward", "backward", "channel_mask"):
            kernels = getattr(run, name)
            patch.setattr(
                run,
                name,
                lambda *args, _kernels=kernels, _name=name, **how: taken.append(_name) or _kernels(*args, **how),
            )
        mc_loss(features, TARGETS.to(device), GROUPS, backend="triton").loss.backward()
        assert taken == ["channel_mask", "forward", "backward"]
        taken.clear()
        mc_loss(features, TARGETS.to(device), GROUPS, backend="eager").loss.backward()
        assert not taken


# Without Triton, and before it is needed


def run_python(code, **environment):
    """Output of a fresh interpreter; fails if that fails."""
    setting = "".join(f"import os; os.environ[{name!r}] = {value!r}\n" for name, value in environment.items())
    found = subprocess.run(
        [sys.executable, "-c", setting + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


STEP = """
import torch, mcl_triton
features = torch.rand(2, 6, 3, 3, requires_grad=True)
groups = mcl_triton.ChannelGroups([3, 3])
def step(backend):
    mcl_triton.MCLoss(groups, backend=backend)(features, torch.tensor([0, 1])).loss.backward()
    assert features.grad.any()
"""


def test_without_triton():
    """Everything else works, and what does not says what to do."""
    run_python(
        "import sys; sys.modules['triton'] = None\n"
        + STEP
        + "step('auto'); step('eager')\n"
        + "for call in (lambda: step('triton'),\n"
        + "             lambda: mcl_triton.channel_pool(features, groups, backend='triton'),\n"
        + "             lambda: mcl_triton.sample_channel_mask(groups, backend='triton')):\n"
        + "    try: call()\n"
        + "    except ImportError as error:\n"
        + "        for part in ('backend=\"triton\"', 'not installed', 'pip install triton', 'backend=\"auto\"'):\n"
        + "            assert part in str(error), error\n"
        + "    else: raise AssertionError\n"
    )


HEAVY = ["triton", "torch._dynamo", "torch._inductor", "numpy", "mcl_triton.kernels.host"]


def test_import_brings_nothing_heavy():
    """Whatever PyTorch itself does not bring already."""
    of_torch, of_ours, kernels_after_a_step = run_python(
        f"import sys, torch\nheavy = {HEAVY}\n"
        "def present(): return ','.join(name for name in heavy if name in sys.modules) or '-'\n"
        "print(present()); import mcl_triton; print(present())\n"
        + STEP.replace("import torch, mcl_triton", "")
        + "step('auto'); print('mcl_triton.kernels.host' in sys.modules)\n"
    )
    assert of_ours == of_torch
    assert kernels_after_a_step == "False"
