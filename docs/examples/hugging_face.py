"""Fine-tune a Hugging Face image classifier with MC-Loss: `compute_loss` of the Trainer; the images here are random."""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from mcl_triton import ChannelGroups, MCLoss


class MCLossTrainer(Trainer):
    """A Trainer that adds MC-Loss, computed on the last hidden state (B, N, H, W), to the model's own loss."""

    def __init__(self, *args, mc_loss, **kwargs):
        super().__init__(*args, **kwargs)
        self.mc_loss = mc_loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, output_hidden_states=True)
        self.mc_loss.train(model.training)  # in evaluation no channel is masked
        output = self.mc_loss(outputs.hidden_states[-1], inputs["labels"])
        loss = outputs.loss + output.loss
        if model.training and self.state.global_step % self.args.logging_steps == 0:
            self.log({"L_dis": output.discriminality.item(), "L_div": output.diversity.item()})
        return (loss, {"logits": outputs.logits}) if return_outputs else loss


class RandomImages(Dataset):
    """Random images, 12 classes in turn."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 64, 64, generator=generator), "labels": index % 12}


def main():
    torch.manual_seed(0)
    # Pretrained: ResNetForImageClassification.from_pretrained("microsoft/resnet-50", num_labels=200, ...)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 50], depths=[1, 1], layer_type="basic", num_labels=12)
    model = ResNetForImageClassification(config)
    groups = ChannelGroups.split(config.hidden_sizes[-1], config.num_labels)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder, max_steps=4, per_device_train_batch_size=16, learning_rate=1e-3, logging_steps=1,
            save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = MCLossTrainer(
            model, options, train_dataset=RandomImages(), eval_dataset=RandomImages(),
            mc_loss=MCLoss(groups, weights=(0.0005, 0.005)),
        )  # fmt: skip
        trainer.train()
        metrics = trainer.evaluate()
    logged = {name for row in trainer.state.log_history for name in row}
    print({"eval_loss": round(metrics["eval_loss"], 3)}, sorted(logged & {"L_dis", "L_div"}))


if __name__ == "__main__":
    main()
