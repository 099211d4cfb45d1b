"""A batch in parts, one after the other or in two processes, gives the weights that it gives as a whole."""

import csv
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from overlap_by_sets import overlap_by_sets
from small_run import OPTIONS, without_seconds, write_images
from torch import distributed, nn

from mcl_triton import ChannelGroups, MCLoss
from reference.formulas import paper as oracle
from reference.model.network import MCNetwork, global_max_pooling
from reference.training.evaluate import evaluate
from reference.training.settings import Settings
from reference.training.trainer import Run, train

GROUPS = ChannelGroups([3, 2, 2])
CASES = {"whole": 1, "in parts": 3}  # accumulation


class Blobs(torch.utils.data.Dataset):
    """Noise in float64 whose mean depends on the class; every reading adds noise of its own."""

    classes = ("low", "middle", "high")

    def __init__(self, size, *, noise=0.0):
        generator = torch.Generator().manual_seed(size)
        self.targets = torch.randint(3, (size,), generator=generator)
        self.images = torch.randn(size, 2, 6, 5, generator=generator, dtype=torch.float64) + self.targets.view(
            -1, 1, 1, 1
        )
        self.noise = noise

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = self.images[index] + self.noise * torch.randn(2, 6, 5, dtype=torch.float64)
        return image, int(self.targets[index])


TRAIN_SET, TEST_SET = Blobs(29, noise=0.5), Blobs(13)


def make_network(batch_norm=False):
    """Without batch norm no sample knows of another one."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5) if batch_norm else nn.Identity()
    features = nn.Sequential(nn.Conv2d(2, 5, 3), norm, nn.Tanh(), nn.Conv2d(5, 7, 1))
    head = nn.Linear(7, 3)
    return MCNetwork(
        features, GROUPS, MCLoss(GROUPS, weights=(0.5, 3)), pooling=global_max_pooling(), head=head
    ).double()


def settings(accumulation=1, **others):
    return Settings(epochs=2, evaluate_every=1, batch_size=12, accumulation=accumulation, learning_rate=0.3, **others)


def train_in(folder, accumulation=1, **others):
    network = make_network()
    rows = train(network, TRAIN_SET, TEST_SET, settings(accumulation, **others), folder, progress=False)
    return network.state_dict(), rows


def work(rank, folder):
    """One of two processes: write the weights and the rows of a run of each kind."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {name: train_in(folder / name, accumulation) for name, accumulation in CASES.items()}
    few = torch.utils.data.Subset(TEST_SET, range(1))
    found["evaluated"] = evaluate(make_network(), TEST_SET, 3), evaluate(make_network(), few, 3)
    normed = make_network(batch_norm=True)
    train(normed, TRAIN_SET, TEST_SET, settings(), folder / "normed", progress=False)
    found["normed"] = normed.state_dict()
    found["interrupted after"] = interrupt_the_second(rank, folder / "interrupted")
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def interrupt_the_second(rank, folder):
    """Press Ctrl-C in the third step of the second process alone; returns the steps that this one has computed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    network, steps = make_network(), []

    def press(*_):
        steps.append(network.training)
        if rank == 1 and steps.count(True) == 3:
            signal.raise_signal(signal.SIGINT)

    network.features.register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        train(network, TRAIN_SET, TEST_SET, settings(), folder, progress=False)
    return steps.count(True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes wrote what they found."""
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("this PyTorch has no gloo")
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights and the rows of one process that takes each batch as a whole."""
    return train_in(tmp_path_factory.mktemp("alone"))


def assert_same_run(weights, rows, expected):
    expected_weights, expected_rows = expected
    before = make_network().state_dict()
    for name, value in expected_weights.items():
        assert not torch.allclose(before[name], value, rtol=1e-3)
        torch.testing.assert_close(weights[name], value, rtol=1e-10, atol=1e-13)
    for row, expected_row in zip(without_seconds(rows), without_seconds(expected_rows), strict=True):
        assert row == pytest.approx(expected_row, rel=1e-6)  # measured in float32


@pytest.mark.parametrize("case", CASES)
def test_two_processes(case, found, alone):
    (weights, rows), (other_weights, other_rows) = (each[case] for each in found)
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert without_seconds(rows) == without_seconds(other_rows)
    assert_same_run(weights, rows, alone)


@pytest.mark.parametrize("accumulation", [2, 6])
def test_parts_one_after_the_other(accumulation, alone, tmp_path):
    assert_same_run(*train_in(tmp_path, accumulation), alone)


def test_every_image_is_evaluated_once(found):
    """13 images are 7 and 6; one image leaves the second process none."""
    network = make_network().eval()
    images, targets = torch.stack([image for image, _ in TEST_SET]), TEST_SET.targets
    with torch.no_grad():
        logits, _ = network(images, targets)
        features = network.features(images)
    scores, diversity = oracle.channel_pool(features, GROUPS.sizes)
    overlaps = torch.tensor(overlap_by_sets(features, GROUPS, targets))
    for each in found:
        for measures, size in zip(each["evaluated"], (13, 1), strict=True):
            expected = {
                "accuracy": (logits.argmax(dim=1) == targets)[:size].double().mean(),
                "cross_entropy": nn.functional.cross_entropy(logits[:size], targets[:size]),
                "discriminality": oracle.discriminality(scores[:size], targets[:size]),
                "diversity": diversity[:size].mean(),
                "diversity_fraction": (diversity[:size] / torch.tensor(GROUPS.sizes)).mean(),
                "overlap": overlaps[:size].nanmean(),
            }
            assert measures == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-6)


def test_batch_norm_ends_in_the_statistics_of_the_first_process(found, folder):
    first, second = (each["normed"] for each in found)
    saved = torch.load(folder / "normed" / "checkpoint.pt")["network"]
    assert first["features.1.running_mean"].any()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert torch.equal(value, saved[name])


def test_ctrl_c_in_one_process_stops_both_after_the_same_step(found, folder):
    assert [each["interrupted after"] for each in found] == [3, 3]
    assert torch.load(folder / "interrupted" / "checkpoint.pt")["step"] == 3


def test_only_the_first_process_writes(folder):
    with open(folder / "whole" / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    assert {path.name for path in (folder / "whole").iterdir()} == {
        *(".lock", "checkpoint.pt", "best.pt", "metrics.csv", "metrics.json")
    }


@pytest.mark.parametrize("processes", [5, 6])  # 12 images are no multiple of 10, and one for each of 12 parts
def test_a_batch_that_cannot_be_divided(monkeypatch, processes):
    monkeypatch.setattr("reference.training.distributed.size", lambda: processes)
    message = rf"must be a multiple of {2 * processes}, .* {processes} processes .* 2, and leave at least 2 .*; got 12"
    with pytest.raises(ValueError, match=message):
        Run(make_network(), settings(accumulation=2), num_images=29, classes=[])


def test_other_random_layers_draw_other_numbers_for_each_part(tmp_path):
    """Two equal parts in one batch must not be dropped out alike; the mask must be."""
    drawn = []

    class Noisy(nn.Module):
        def forward(self, images):
            if self.training:
                drawn.append(torch.rand(4))
            return images

    network = make_network()
    network.features.append(Noisy())
    masks = []
    network.loss.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[2]))
    train(network, TRAIN_SET, TEST_SET, settings(3), tmp_path, progress=False)
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 12  # 4 steps of 3 parts
    assert all(torch.equal(masks[step * 3], masks[step * 3 + part]) for step in range(4) for part in range(3))
    assert len({tuple(mask.tolist()) for mask in masks}) > 1
    assert all(int(mask.sum()) == 4 for mask in masks)  # ⌊3/2⌋ + ⌊2/2⌋ + ⌊2/2⌋ of 7 are masked


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun and signals")
def test_torchrun_and_ctrl_c(tmp_path):
    """Both processes stop after the same step and leave a checkpoint to go on from."""
    folder = tmp_path / "run"
    root = Path(__file__).parents[2]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "reference", "train", *OPTIONS, "--data", str(write_images(tmp_path / "images"))),
        *("--folder", str(folder), "--batch-size", "6", "--epochs", "5000"),
    ]
    process = subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    guard = threading.Timer(300, process.terminate)  # on SIGTERM torchrun ends its processes
    guard.start()
    try:
        for line in process.stderr:
            if "test accuracy" in line:  # the bar after an epoch
                break
        process.send_signal(signal.SIGINT)
        text = process.communicate()[1]
    finally:
        process.terminate()
        guard.cancel()
    assert f"stopped; resume it by `python -m reference resume {folder}`" in text
    saved = torch.load(folder / "checkpoint.pt")
    assert saved["step"] >= 2
    assert 0 <= saved["step"] - 2 * len(saved["rows"]) <= 2  # two steps an epoch, the last one perhaps not validated
