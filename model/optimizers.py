"""How weights move: the update rules, and the learning rate over the steps of a training."""

from collections.abc import Callable

from torch import nn
from torch.optim import SGD, Adagrad, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from relearn.model.config import TrainConfig


def optimizer(config: TrainConfig, network: nn.Module) -> Optimizer:
    return OPTIMIZERS[config.optimizer](config, network)


def schedule(config: TrainConfig, rule: Optimizer, steps: int) -> LRScheduler:
    """The learning rate of each of `steps` weight updates, over the whole training."""
    return SCHEDULES[config.schedule](config, rule, steps)


def _sgd(config: TrainConfig, network: nn.Module) -> Optimizer:
    # Fused: one pass over weight, gradient and momentum instead of three.
    return SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _rmsprop(config: TrainConfig, network: nn.Module) -> Optimizer:
    # alpha and eps are Keras's defaults, which the tutorial's figure rests on; torch's are 0.99 and 1e-8.
    return RMSprop(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        alpha=0.9,
        eps=1e-7,
    )


def _adagrad(config: TrainConfig, network: nn.Module) -> Optimizer:
    return Adagrad(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _constant(config: TrainConfig, rule: Optimizer, steps: int) -> LRScheduler:
    return LambdaLR(rule, lambda step: 1.0)


def _cosine(config: TrainConfig, rule: Optimizer, steps: int) -> LRScheduler:
    return CosineAnnealingLR(rule, T_max=steps)


def _one_cycle(config: TrainConfig, rule: Optimizer, steps: int) -> LRScheduler:
    """Up from 1/25 of the learning rate for 30 % of the steps, then down to almost nothing.

    Smith and Topin 2017, https://arxiv.org/abs/1708.07120; momentum stays where the config puts it.
    """
    return OneCycleLR(rule, max_lr=config.learning_rate, total_steps=steps + 1, cycle_momentum=False)


OPTIMIZERS: dict[str, Callable[[TrainConfig, nn.Module], Optimizer]] = {
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
}
SCHEDULES: dict[str, Callable[[TrainConfig, Optimizer, int], LRScheduler]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
