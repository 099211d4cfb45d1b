"""Training: the data, the order, the resume, the checkpoints, the metrics, the command line."""

import csv
import json
import math
import re
import signal
import sys
from dataclasses import replace
from functools import partial
from statistics import fmean
from types import SimpleNamespace
from unittest.mock import Mock, call

import pytest
import torch
from overlap_by_sets import overlap_by_sets
from small_run import OPTIONS, SETTINGS, small_data, small_network, without_seconds, write_images
from torch.utils.data import Dataset

from reference.__main__ import main
from reference.formulas import paper as oracle
from reference.training import checkpoint
from reference.training.batches import batches
from reference.training.build import load_test_data
from reference.training.checkpoint import load_network
from reference.training.evaluate import evaluate
from reference.training.logs import tensorboard
from reference.training.trainer import DivergedError, Run, learning_rate_factor
from reference.training.trainer import train as train_network

COLUMNS = [
    *("epoch", "step", "train_loss", "train_accuracy", "test_accuracy", "test_cross_entropy"),
    *("test_discriminality", "test_diversity", "test_diversity_fraction", "test_overlap", "seconds"),
]


class Interrupted(Dataset):
    """A data set that calls ``interrupt`` when its ``read``-th sample is read, counting from 0."""

    def __init__(self, dataset, read, interrupt):
        self.dataset, self.left, self.interrupt = dataset, read, interrupt
        self.classes = getattr(dataset, "classes", ())

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if self.left == 0:
            self.interrupt()
        self.left -= 1
        return self.dataset[index]


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


def fail():
    raise OSError("the disk is gone")


@pytest.fixture(autouse=True)
def ctrl_c_raises():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "training left its handler"
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that nothing interrupts: its folder, its network and its rows."""
    folder = tmp_path_factory.mktemp("whole")
    network = small_network()
    rows = train_network(network, *small_data(), SETTINGS, folder, progress=False)
    return folder, network, rows


# The order


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    first, second = torch.stack(list(batches(range(23), 5, 0, range(8)))).split(4)
    for epoch in (first, second):  # the last three are left out
        assert len(set(epoch.flatten().tolist())) == 20
    assert not torch.equal(first, second)


def test_parts_are_those_of_the_whole_batch():
    whole = torch.stack(list(batches(range(23), 6, 1, range(5))))
    shares = [torch.stack(list(batches(range(23), 6, 1, range(5), parts=3, mine=range(n, n + 1)))) for n in range(3)]
    assert torch.equal(torch.cat(shares, dim=1), whole)
    two = torch.stack(list(batches(range(23), 6, 1, range(5), parts=3, mine=range(1, 3)))).reshape(5, 4)
    assert torch.equal(two, whole[:, 2:])


@pytest.mark.parametrize("workers", [0, 2])
def test_where_reading_starts_and_who_reads_change_nothing(workers):
    train_set, _ = small_data()
    whole = list(batches(train_set, 10, 3, range(12)))
    torch.manual_seed(1)
    rest = list(batches(train_set, 10, 3, range(6, 12), workers=workers))  # from the middle of the second epoch
    assert len(rest) == 6
    for (images, targets), (expected_images, expected_targets) in zip(rest, whole[6:], strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(targets, expected_targets)


def test_augmentation_differs_between_epochs_and_seeds():
    train_set, _ = small_data()

    def images_in_order(seed, epoch):
        images, targets = next(batches(train_set, 40, seed, range(epoch, epoch + 1)))
        return images[targets.argsort()]

    reference = images_in_order(0, 0)
    for seed, epoch in ((0, 1), (1, 0)):
        differs = (images_in_order(seed, epoch) != reference).flatten(1).any(dim=1)
        assert differs.sum() > 30


# Interrupted and resumed


@pytest.mark.parametrize(
    ("interrupt", "read"),
    [
        *((press_ctrl_c, 0), (press_ctrl_c, 15), (press_ctrl_c, 39), (press_ctrl_c, 79)),
        *((raise_keyboard_interrupt, 0), (raise_keyboard_interrupt, 55), (fail, 45)),
    ],
)
def test_an_interrupted_run_ends_in_the_same_weights(whole_run, tmp_path, interrupt, read):
    _, expected, expected_rows = whole_run
    train_set, test_set = small_data()
    interrupted = small_network()
    with pytest.raises((KeyboardInterrupt, OSError)):
        train_network(
            interrupted, Interrupted(train_set, read, interrupt), test_set, SETTINGS, tmp_path, progress=False
        )
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    # Ctrl-C lets the step finish; anything else goes back to the start of the epoch.
    assert saved.step == (read // 10 + 1 if interrupt is press_ctrl_c else read // 40 * 4)

    torch.manual_seed(1234)  # a new process knows nothing of the old one's random numbers
    network = small_network(replace(SETTINGS, seed=99))
    rows = train_network(network, train_set, test_set, SETTINGS, tmp_path, resume=True, progress=False)
    resumed, whole = network.state_dict(), expected.state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert without_seconds(rows) == without_seconds(expected_rows)


def test_a_run_interrupted_and_resumed_with_workers(whole_run, tmp_path):
    """Images that were read ahead are read again, and alike, by however many workers."""
    _, expected, expected_rows = whole_run
    interrupted, calls = small_network(), []

    def interrupt_in_the_sixth_step(*_):
        calls.append(interrupted.training)
        if calls.count(True) == 6:
            press_ctrl_c()

    interrupted.features.register_forward_hook(interrupt_in_the_sixth_step)
    with pytest.raises(KeyboardInterrupt):
        train_network(interrupted, *small_data(), SETTINGS, tmp_path, workers=2, progress=False)
    assert checkpoint.load(tmp_path / "checkpoint.pt").step == 6

    network = small_network(replace(SETTINGS, seed=99))
    rows = train_network(network, *small_data(), SETTINGS, tmp_path, resume=True, workers=1, progress=False)
    resumed, whole = network.state_dict(), expected.state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert without_seconds(rows) == without_seconds(expected_rows)


def test_workers_leave_ctrl_c_to_the_process_that_trains():
    dataset = Interrupted(range(4), 0, press_ctrl_c)
    assert len(list(batches(dataset, 2, 0, range(1), workers=1))) == 1


def test_workers_leave_ctrl_c_to_the_process_that_evaluates():
    _, test_set = small_data()
    expected = evaluate(small_network(), test_set, batch_size=6)
    measured = evaluate(small_network(), Interrupted(test_set, 0, press_ctrl_c), batch_size=6, workers=1)
    assert measured == expected


def test_resuming_with_other_settings_is_an_error(whole_run):
    folder, _, _ = whole_run
    settings = replace(SETTINGS, weight_decay=0.25)
    with pytest.raises(ValueError, match=r"same settings; they differ: weight_decay 0\.0005 and 0\.25"):
        train_network(small_network(settings), *small_data(), settings, folder, resume=True, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.targets.pop(), "other images, which had 40 to train on, now 39"),
        (lambda data: data.classes.__setitem__(7, "zoe"), "other images, which had class 8 'bird 7', now 'zoe'"),
        (lambda data: data.classes.reverse(), "other images, which had class 1 'bird 0', now 'bird 9'"),
        (lambda data: data.classes.pop(), "other images, which had class 10 'bird 9', now None"),
    ],
)
def test_resuming_with_other_images_is_an_error(whole_run, change, message):
    folder, _, _ = whole_run
    train_set, test_set = small_data()
    change(train_set)
    with pytest.raises(ValueError, match=message):
        train_network(small_network(), train_set, test_set, SETTINGS, folder, resume=True, progress=False)


# Training itself


def test_metrics_are_written_as_csv_and_json(whole_run):
    folder, _, rows = whole_run
    with open(folder / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == COLUMNS
    assert [{name: float(value) for name, value in row.items()} for row in table] == rows
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8)]
    content = json.loads((folder / "metrics.json").read_text())
    assert content["epochs"] == rows
    assert content["settings"]["weights"] == list(SETTINGS.weights)
    assert content["environment"]["torch"] == torch.__version__


def test_channels_without_a_partner_have_no_overlap_and_json_can_be_read_all_the_same(tmp_path):
    settings = replace(SETTINGS, channels_per_class=1, epochs=1)
    (row,) = train_network(small_network(settings), *small_data(), settings, tmp_path, progress=False)
    assert math.isnan(row["test_overlap"])
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["epochs"] == [{**row, "test_overlap": None}]


def test_evaluation_agrees_with_the_oracle(whole_run):
    _, network, rows = whole_run
    _, test_set = small_data()
    images, targets = torch.stack([image for image, _ in test_set]), torch.tensor(test_set.targets)
    network.train()
    measured = evaluate(network, test_set, batch_size=5)  # 12 images: the batches are not of one size
    assert network.training
    assert measured == pytest.approx({name[5:]: value for name, value in rows[-1].items() if name.startswith("test_")})

    network.eval()
    with torch.no_grad():
        logits, ce_loss = network(images, targets)
        features = network.features(images)
        scores, diversity = oracle.channel_pool(features, network.groups.sizes)
    overlaps = overlap_by_sets(features, network.groups, targets)
    expected = {
        "accuracy": (logits.argmax(dim=1) == targets).float().mean().item(),
        "cross_entropy": ce_loss.item(),
        "discriminality": oracle.discriminality(scores, targets).item(),
        "diversity": diversity.mean().item(),
        "diversity_fraction": diversity.mean().item() / 2,
        "overlap": fmean(overlap for overlap in overlaps if not math.isnan(overlap)),
    }
    assert measured == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [(0, 0), (0.5, 3)])
def test_training_learns(tmp_path, weights):
    settings = replace(SETTINGS, epochs=6, weights=weights)
    rows = train_network(small_network(settings), *small_data(), settings, tmp_path, progress=False)
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert rows[-1]["train_accuracy"] > 0.5


def test_mc_loss_makes_channels_more_diverse(tmp_path):
    settings = replace(SETTINGS, epochs=6)
    diversity = {}
    for weights in ((0, 0), (0, 10)):
        one = replace(settings, weights=weights)
        rows = train_network(small_network(one), *small_data(), one, tmp_path / str(weights), progress=False)
        diversity[weights] = rows[-1]["test_diversity"]
    assert 1 <= diversity[0, 0] + 0.1 < diversity[0, 10] <= 2


def test_the_optimiser_and_its_schedule():
    settings = replace(SETTINGS, epochs=10, learning_rate=0.2, momentum=0.8, weight_decay=0.01, milestones=[4, 6])
    optimizer = Run(small_network(settings), settings, num_images=40, classes=[]).optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert {name: optimizer.defaults[name] for name in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.2,
        "momentum": 0.8,
        "weight_decay": 0.01,
    }
    factors = [learning_rate_factor(settings, epoch) for epoch in (0, 3.5, 4, 5.5, 6, 9.5)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = replace(settings, milestones=())
    assert [learning_rate_factor(cosine, epoch) for epoch in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


def test_the_learning_rate_falls_with_every_step():
    settings = replace(SETTINGS, epochs=1, learning_rate=0.08, backbone_factor=0.25)
    run = Run(small_network(settings), settings, num_images=40, classes=[])
    rates = []
    for batch in run.steps(small_data()[0]):
        run.train_step(batch)
        rates.append([group["lr"] for group in run.optimizer.param_groups])
    head = [0.04 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates == [pytest.approx([rate / 4, rate]) for rate in head]
    backbone = {id(parameter) for parameter in run.optimizer.param_groups[0]["params"]}
    assert backbone == {id(parameter) for parameter in run.network.features.parameters()}
    both = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    assert len(both) == len(list(run.network.parameters()))


def test_the_best_checkpoint_is_of_the_first_epoch_with_the_highest_accuracy(tmp_path, monkeypatch):
    accuracies = iter([0.2, 0.5, 0.5, 0.4])
    others = {"cross_entropy": 1.0, "discriminality": 1.0, "diversity": 1.0, "diversity_fraction": 0.5, "overlap": 0.5}
    monkeypatch.setattr(
        "reference.training.trainer.evaluate", lambda *_, **__: {"accuracy": next(accuracies), **others}
    )
    settings = replace(SETTINGS, epochs=4)
    train_network(small_network(settings), *small_data(), settings, tmp_path, progress=False)
    best, last = checkpoint.load(tmp_path / "best.pt"), checkpoint.load(tmp_path / "checkpoint.pt")
    assert [row["test_accuracy"] for row in best.rows] == [0.2, 0.5]
    assert (best.step, last.step) == (8, 16)
    assert not torch.equal(best.network["head.1.weight"], last.network["head.1.weight"])


@pytest.mark.parametrize("weights", [(0, 0), (0.5, 3)])
def test_a_loss_that_is_no_number_stops_at_once(tmp_path, weights):
    settings = replace(SETTINGS, weights=weights)
    train_set, test_set = small_data()
    train_set.images[17] = torch.nan
    network = small_network(settings)
    with pytest.raises(DivergedError, match=r"training loss is nan at step [0-3], epoch 1.*Lower learning_rate"):
        train_network(network, train_set, test_set, settings, tmp_path, progress=False)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    assert all(value.isfinite().all() for value in saved.network.values())


def test_a_network_far_worse_than_guessing_is_reported_once(tmp_path, monkeypatch):
    """Its channels may look excellent: full diversity, no overlap."""
    found = {"accuracy": 0.1, "discriminality": 1.0, "diversity": 2.0, "diversity_fraction": 1.0, "overlap": 0.0}
    losses = iter([2.0, 23.0, 24.0, 3e6, 1.0, 9e6])  # guessing among 10 classes gives 2.3026
    monkeypatch.setattr(
        "reference.training.trainer.evaluate",
        lambda *_, **__: {"accuracy": 0.1, "cross_entropy": next(losses)} | found,
    )
    with pytest.warns(RuntimeWarning, match="the test cross-entropy is") as caught:
        train_network(small_network(), *small_data(), replace(SETTINGS, epochs=6), tmp_path, progress=False)
    first, second = (str(warning.message) for warning in caught)
    assert first.startswith("the test cross-entropy is 24 after epoch 3; guessing gives ln 10 = 2.3.")
    assert second.startswith("the test cross-entropy is 9e+06 after epoch 6;")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(precision, whole_run, tmp_path, monkeypatch):
    scaler = partial(torch.amp.GradScaler, init_scale=2.0**8)  # at PyTorch's own scale the first steps overflow
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    settings = replace(SETTINGS, mixed_precision=precision)
    network, dtypes = small_network(settings), set()
    network.features.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
    rows = train_network(network, *small_data(), settings, tmp_path, progress=False)
    assert dtypes == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    _, _, expected = whole_run
    assert rows[0]["train_loss"] != expected[0]["train_loss"]
    assert rows[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], rel=0.02)
    scaler = checkpoint.load(tmp_path / "checkpoint.pt").scaler
    assert bool(scaler) == (precision == "fp16")  # only float16 needs one


def test_a_step_in_which_scaled_gradients_overflow_is_left_out():
    settings = replace(SETTINGS, mixed_precision="fp16")
    run = Run(small_network(settings), settings, num_images=40, classes=[])
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = [parameter.detach().clone() for parameter in run.network.parameters()]
    run.train_step(next(run.steps(small_data()[0])))
    assert all(torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))
    assert run.scaler.get_scale() == 2.0**99


def test_gradients_that_are_never_finite_end_the_epoch():
    """Without the scale's lower end the run would go on to its end, and learn nothing."""
    settings = replace(SETTINGS, mixed_precision="fp16")
    run = Run(small_network(settings), settings, num_images=40, classes=[])
    run.network.head[-1].weight.register_hook(lambda gradient: gradient * torch.nan)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    train_set, test_set = small_data()
    steps = run.steps(train_set)
    for _ in range(4):
        run.train_step(next(steps))
    with pytest.raises(DivergedError, match=r"not finite in float16 at step 4, epoch 1: .* to 0\.5 and"):
        run.finish_epoch(test_set)


def test_channels_last(tmp_path):
    settings = replace(SETTINGS, channels_last=True, epochs=1)
    network, layouts = small_network(settings), set()
    network.features.to(memory_format=torch.contiguous_format)

    def note(_, inputs, output):
        layouts.add(output.is_contiguous(memory_format=torch.channels_last))

    network.features.register_forward_hook(note)
    train_network(network, *small_data(), settings, tmp_path, progress=False)
    assert layouts == {True}


def test_a_compiled_step_is_the_same_step(whole_run, tmp_path, monkeypatch):
    graphs = []

    def as_it_is(graph, inputs):
        graphs.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: original(module, backend=as_it_is))
    settings = replace(SETTINGS, compile=True)
    network = small_network(settings)
    train_network(network, *small_data(), settings, tmp_path, progress=False)
    assert len(graphs) == 1  # forward and loss in one graph, compiled once for all steps
    _, expected, _ = whole_run
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in network.state_dict().items())


def test_threads_are_set_for_the_run_alone(tmp_path):
    before, during = torch.get_num_threads(), []
    settings = replace(SETTINGS, threads=before + 1, epochs=1)
    train_network(
        small_network(settings),
        *small_data(),
        settings,
        tmp_path,
        progress=False,
        on_epoch=lambda _: during.append(torch.get_num_threads()),
    )
    assert during == [before + 1]
    assert torch.get_num_threads() == before


def test_a_batch_larger_than_the_data(tmp_path):
    settings = replace(SETTINGS, batch_size=41)
    with pytest.raises(ValueError, match="at most the number of training images, 40; got 41"):
        train_network(small_network(settings), *small_data(), settings, tmp_path, progress=False)


def test_tensorboard_gets_every_measure(monkeypatch, tmp_path):
    writer = Mock()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=writer))
    tensorboard(tmp_path)(dict.fromkeys(COLUMNS, 0.5) | {"epoch": 3})
    writer.assert_called_once_with(str(tmp_path / "tensorboard"))
    assert writer.return_value.add_scalar.call_args_list == [call(name, 0.5, 3) for name in COLUMNS[1:]]


def test_tensorboard_shows_an_image_and_the_channels_of_its_class(monkeypatch, tmp_path):
    writer = Mock()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=writer))
    data = write_images(tmp_path / "data")
    folder = tmp_path / "run"
    images = ["--data", str(data), "--folder", str(folder), "--tensorboard-images", "2"]
    assert main(["train", *OPTIONS, *images]) == 0
    written = writer.return_value.add_image.call_args_list
    assert [(one.args[0], one.args[2]) for one in written] == [
        (f"channels/bird {label}", epoch) for epoch in (1, 2) for label in (0, 1)
    ]
    # The last ones are those of the network that was saved.
    network, settings, _ = load_network(folder / "checkpoint.pt")
    test_set = load_test_data(settings)
    for label, one in enumerate(written[-2:]):
        image, _ = test_set[test_set.targets.index(label)]
        with torch.inference_mode():
            own = network.eval().extract(image[None])[0, 2 * label : 2 * label + 2]
        own = torch.cat([own, own.amax(dim=0, keepdim=True)])
        maps = torch.nn.functional.interpolate(own[None], image.shape[1:], mode="bilinear")[0].clamp(min=0)
        grey = image.mean(dim=0)
        photo, *found = one.args[1][0].split(image.shape[2], dim=1)
        assert torch.allclose(photo, (grey - grey.min()) / (grey.max() - grey.min()))
        assert torch.allclose(torch.stack(found), maps / maps.max(), atol=1e-5)


def test_the_progress_bar_has_the_loss_and_the_test_accuracy(tmp_path, capsys):
    rows = train_network(small_network(), *small_data(), SETTINGS, tmp_path)
    shown = re.findall(r"loss ([\d.]+), test accuracy ([\d.]+)%", capsys.readouterr().err)
    assert shown[-1] == (f"{rows[-1]['train_loss']:.3f}", f"{100 * rows[-1]['test_accuracy']:.1f}")
