"""Train with MC-Loss in Lightning; the images here are random."""

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from mcl_triton import ChannelGroups, MCLoss


class Classifier(lightning.LightningModule):
    """A feature extractor, images -> (B, N, H, W), trained by cross-entropy and MC-Loss."""

    def __init__(self, extractor, num_channels, num_classes, weights):
        super().__init__()
        self.extractor = extractor
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_channels, num_classes))
        self.mc_loss = MCLoss(ChannelGroups.split(num_channels, num_classes), weights=weights)

    def forward(self, images):
        return self.head(self.extractor(images))

    def training_step(self, batch, batch_index):
        images, targets = batch
        features = self.extractor(images)
        ce_loss = cross_entropy(self.head(features), targets)
        output = self.mc_loss(features, targets)
        self.log_dict(
            {"train/cross_entropy": ce_loss, "train/L_dis": output.discriminality, "train/L_div": output.diversity}
        )
        return ce_loss + output.loss

    def validation_step(self, batch, batch_index):
        images, targets = batch
        features = self.extractor(images)
        output = self.mc_loss(features, targets)  # in evaluation no channel is masked
        correct = self.head(features).argmax(1) == targets
        self.log_dict({"val/accuracy": correct.float().mean(), "val/L_dis": output.discriminality})

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    lightning.seed_everything(0, verbose=False)
    extractor = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 50, 3, padding=1), nn.BatchNorm2d(50), nn.ReLU(),
    )  # fmt: skip
    classifier = Classifier(extractor, num_channels=50, num_classes=12, weights=(0.5, 3))
    images = TensorDataset(torch.randn(32, 3, 16, 16), torch.arange(32) % 12)
    trainer = lightning.Trainer(
        max_steps=6, accelerator="cpu", precision="bf16-mixed", log_every_n_steps=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(classifier, DataLoader(images, batch_size=16), DataLoader(images, batch_size=32))
    print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
