"""Export a classifier that was trained with MC-Loss, by torch.export and to ONNX; the loss takes no part in it."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mcl_triton import ChannelGroups, MCLoss


class Classifier(nn.Module):
    """A small network: in training logits and features, in evaluation logits alone."""

    def __init__(self, num_classes=12, channels_per_class=3):
        super().__init__()
        num_channels = num_classes * channels_per_class
        self.extractor = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, num_channels, 3, padding=1), nn.BatchNorm2d(num_channels), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_channels, num_classes))
        self.mc_loss = MCLoss(ChannelGroups.uniform(num_classes, channels_per_class))

    def forward(self, images):
        features = self.extractor(images)
        logits = self.head(features)
        return (logits, features) if self.training else logits


def main():
    torch.manual_seed(0)
    network, images, targets = Classifier(), torch.randn(24, 3, 32, 32), torch.arange(24) % 12
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(5):
        logits, features = network(images)
        loss = cross_entropy(logits, targets) + network.mc_loss(features, targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network.eval()
    with torch.no_grad():
        expected = network(images)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "classifier.onnx")
        torch.onnx.export(exported, dynamo=True, verbose=False).save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (input_name,) = (one.name for one in session.get_inputs())
        for count in (24, 5):  # any batch size
            (from_onnx,) = session.run(None, {input_name: images[:count].numpy()})
            from_export = exported.module()(images[:count]).detach()
            torch.testing.assert_close(from_export, expected[:count])
            np.testing.assert_allclose(from_onnx, expected[:count].numpy(), rtol=1e-4, atol=1e-5)
    print("torch.export and ONNX give the logits of the network")


if __name__ == "__main__":
    main()
