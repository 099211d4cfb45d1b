"""Two processes with half of the batch each have, on average, the loss and the gradient of one with the whole batch."""

import copy
import warnings
from datetime import timedelta
from itertools import product

import pytest
import torch
from torch import distributed, nn

from mcl_triton import ChannelGroups, MCLoss, mc_loss

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this PyTorch has no gloo"
)

GROUPS = ChannelGroups([3, 1, 2])
CONVENTIONS = ["official", "paper"]
BACKENDS = ["eager", "triton"]
WRAPPERS = ["DDP", "FSDP"]


class Network(nn.Module):
    """The loss among the layers of a network: everything that is done to the network is done to it too."""

    def __init__(self, convention: str, backend: str):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1))
        self.mc_loss = MCLoss(GROUPS, convention=convention, backend=backend, class_weights=torch.full((3,), 2.0))

    def forward(self, images, targets, mask):
        return self.mc_loss(self.layers(images), targets, mask).loss


def make_network(convention, backend):
    torch.manual_seed(0)
    # In evaluation samples know nothing of each other; elsewhere SyncBatchNorm sees to that, on GPUs only.
    return Network(convention, backend).double().eval()


def make_batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 6, 5, dtype=torch.float64, generator=generator)
    return images, torch.tensor([0, 2, 1, 2]), torch.tensor([1, 0, 1, 1, 0, 1])


def wrap(network, wrapper):
    if wrapper == "DDP":
        return nn.parallel.DistributedDataParallel(network)
    from torch.distributed.fsdp import fully_shard

    mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
    for part in (network.layers, network.mc_loss, network):
        fully_shard(part, mesh=mesh)
    return network


def plain(tensor):
    """The whole of a tensor that may be spread over the processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def work(rank, folder):
    """One of two processes: write the loss and the gradients for each wrapper, convention and backend."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    images, targets, mask = make_batch()
    half = slice(2 * rank, 2 * rank + 2)
    found = {}
    for wrapper, convention, backend in product(WRAPPERS, CONVENTIONS, BACKENDS):
        network = make_network(convention, backend)
        wrapped = wrap(network, wrapper)
        loss = wrapped(images[half], targets[half], mask)
        loss.backward()
        gradients = {name: plain(parameter.grad) for name, parameter in network.named_parameters()}
        found[wrapper, convention, backend] = loss.detach(), gradients
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of each of the two processes."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes(backend, convention, wrapper, found):
    network = make_network(convention, backend)
    expected = network(*make_batch())
    expected.backward()
    (first, first_gradients), (second, second_gradients) = (each[wrapper, convention, backend] for each in found)
    assert first != second
    torch.testing.assert_close((first + second) / 2, expected.detach(), rtol=1e-12, atol=0)
    for name, parameter in network.named_parameters():
        assert parameter.grad.any()
        assert torch.equal(first_gradients[name], second_gradients[name])
        torch.testing.assert_close(first_gradients[name], parameter.grad, rtol=1e-9, atol=1e-14)


def test_layers_are_converted_around_the_loss():
    network = make_network("official", "eager")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert isinstance(converted.layers[1], nn.SyncBatchNorm)
    assert isinstance(converted.mc_loss, MCLoss)
    assert converted.mc_loss.groups == GROUPS
    assert torch.equal(converted(*make_batch()), network(*make_batch()))


@pytest.fixture
def mesh():
    """A process group of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("spread", ["features", "mask", "targets", "class_weights"])
def test_distributed_tensors_are_refused(mesh, spread):
    from torch.distributed.tensor import distribute_tensor

    tensors = {
        "features": torch.randn(3, 6, 2, 2),
        "mask": torch.ones(6),
        "targets": torch.arange(3),
        "class_weights": torch.ones(3),
    }
    mc_loss(groups=GROUPS, **tensors)
    tensors[spread] = distribute_tensor(tensors[spread], mesh)
    with pytest.raises(TypeError, match=rf"{spread} must be an ordinary tensor; got a DTensor.*\.to_local\(\)"):
        mc_loss(groups=GROUPS, **tensors)
    tensors[spread] = tensors[spread].to_local()
    mc_loss(groups=GROUPS, **tensors)
