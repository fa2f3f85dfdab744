"""Lightning, with all optional features off."""

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.torch_parts import network, tensors
from benchmarks.peers.types import EpochEndCallback, Settings, Split


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=settings["epochs"],
        callbacks=[Pause(on_epoch_end)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        Classification(settings),
        DataLoader(tensors(settings, train_split), settings["batch_size"], shuffle=True),
        DataLoader(tensors(settings, validation_split), settings["batch_size"]),
    )


class Classification(lightning.LightningModule):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.network: nn.Module = network(settings)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self.network(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.parameters(), lr=self.settings["learning_rate"], momentum=self.settings["momentum"]
        )


class Pause(lightning.Callback):
    """Callback at the end of an epoch, which in Lightning is after its validation."""

    def __init__(self, on_epoch_end: EpochEndCallback) -> None:
        self.callback = on_epoch_end

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.callback(trainer.callback_metrics["val_accuracy"].item())
