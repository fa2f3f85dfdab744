"""Optimizers and learning rate schedulers."""

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from relearn.model.config import TrainConfig

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, fused=True),  # one pass over weight, gradient and momentum, not three
    # Keras's defaults, used in the tutorial; torch's are 0.99 and 1e-8.
    "rmsprop": partial(RMSprop, alpha=0.9, eps=1e-7),
    "adagrad": Adagrad,
    "adam": partial(Adam, fused=True),
    "adamw": partial(AdamW, fused=True),  # decays the weights apart from the gradients
}
WITH_MOMENTUM = ("sgd", "rmsprop")


def build_optimizer(config: TrainConfig, network: nn.Module) -> Optimizer:
    """Build the optimizer of `config` for all parameters of `network`.

    Only matrices and filters decay: toward 0, biases and the scales of a normalization fit worse, and no
    network becomes simpler.
    """
    decay_by_group = {True: config.weight_decay, False: 0.0}
    parameter_groups = [
        {"params": parameters, "weight_decay": weight_decay}
        for decays, weight_decay in decay_by_group.items()
        if (parameters := [each for each in network.parameters() if (each.ndim > 1) == decays])
    ]
    settings = {"momentum": config.momentum} if config.optimizer in WITH_MOMENTUM else {}
    return OPTIMIZERS[config.optimizer](parameter_groups, lr=config.learning_rate, **settings)


def build_lr_scheduler(config: TrainConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Build the learning rate scheduler of `config` for a training of `steps` optimizer steps.

    `one_cycle` rises from 1/25 of the learning rate during 30 % of the steps, then falls to almost 0
    (Smith and Topin 2017, https://arxiv.org/abs/1708.07120); momentum stays constant.
    """
    if config.lr_schedule == "one_cycle":
        return OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=steps + 1, cycle_momentum=False)
    if config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LambdaLR(optimizer, lambda step: 1.0)
