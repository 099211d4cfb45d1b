"""Train a timm backbone on CUB-200-2011 with cross-entropy and MC-Loss: from the dataset's folder to a test accuracy.

In a clone of mcl_triton:

pip install . timm
python docs/examples/cub_timm.py CUB_200_2011 --model resnet50 --epochs 50
"""

import argparse
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from mcl_triton import ChannelGroups, MCLoss


class Birds(Dataset):
    """One split of CUB-200-2011: (image, class index)."""

    def __init__(self, folder, is_training, transform):
        self.folder, self.transform = folder / "images", transform
        files, labels, splits = (
            dict(line.split(maxsplit=1) for line in (folder / name).read_text().splitlines())
            for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
        )
        self.items = [(files[key], int(labels[key]) - 1) for key in files if (splits[key] == "1") == is_training]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        file, target = self.items[index]
        return self.transform(Image.open(self.folder / file).convert("RGB")), target


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="CUB_200_2011, which holds images.txt")
    parser.add_argument("--model", default="resnet50", help="any timm model with a feature map (B, N, H, W)")
    parser.add_argument("--from-scratch", action="store_true", help="random weights instead of pretrained ones")
    parser.add_argument("--weights", type=float, nargs=2, default=(0.0005, 0.005), metavar=("ALPHA", "BETA"))
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--learning-rate", type=float, default=0.01, help="of the backbone; ten times as much for the head"
    )
    parser.add_argument("--workers", type=int, default=8)
    return parser.parse_args()


def main():
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    num_classes = len((options.folder / "classes.txt").read_text().splitlines())
    network = timm.create_model(options.model, pretrained=not options.from_scratch, num_classes=num_classes)
    network = network.to(device, memory_format=torch.channels_last)
    mc_loss = MCLoss(ChannelGroups.split(network.num_features, num_classes), weights=options.weights)

    config = resolve_data_config({"input_size": (3, options.pixels, options.pixels), "crop_pct": 0.875}, model=network)
    training = Birds(
        options.folder, True, create_transform(**config, is_training=True, scale=(0.4, 1), auto_augment=None)
    )
    testing = Birds(options.folder, False, create_transform(**config))
    shared = {"num_workers": options.workers, "pin_memory": device.type == "cuda"}
    train_loader = DataLoader(training, options.batch_size, shuffle=True, drop_last=True, **shared)
    test_loader = DataLoader(testing, 2 * options.batch_size, **shared)

    head = {id(parameter) for parameter in network.get_classifier().parameters()}
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in head], "max_lr": options.learning_rate},
        {"params": list(network.get_classifier().parameters()), "max_lr": 10 * options.learning_rate},
    ]
    optimizer = torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["max_lr"] for group in groups], total_steps=options.epochs * len(train_loader), pct_start=0.05
    )

    for epoch in range(options.epochs):
        network.train()
        for images, targets in train_loader:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            targets = targets.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                features = network.forward_features(images)  # (B, N, H, W), before pooling
                logits = network.forward_head(features)
            output = mc_loss(features, targets)
            loss = cross_entropy(logits.float(), targets) + output.loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()

        network.eval()
        correct = torch.zeros((), dtype=torch.int64, device=device)
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
            for images, targets in test_loader:
                images = images.to(device, memory_format=torch.channels_last)
                correct += (network(images).argmax(1) == targets.to(device)).sum()
        accuracy = 100 * correct.item() / len(testing)
        print(
            f"epoch {epoch + 1}: loss {loss.item():.3f}, L_dis {output.discriminality.item():.3f}, "
            f"L_div {output.diversity.item():.2f}, test accuracy {accuracy:.2f} %"
        )
    torch.save(network.state_dict(), f"cub-{options.model}.pt")


if __name__ == "__main__":
    main()
