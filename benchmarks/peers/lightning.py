"""Lightning, with nothing switched on that an epoch does not need."""

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.torch_parts import network, tensors
from benchmarks.peers.types import EpochDone, Part, Settings


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=settings["epochs"],
        callbacks=[Pause(epoch_done)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        Classification(settings),
        DataLoader(tensors(settings, learn), settings["batch_size"], shuffle=True),
        DataLoader(tensors(settings, look), settings["batch_size"]),
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
    """Lightning ends an epoch of training after its validation."""

    def __init__(self, epoch_done: EpochDone) -> None:
        self.epoch_done = epoch_done

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.epoch_done(trainer.callback_metrics["val_accuracy"].item())
