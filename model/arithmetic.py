"""In which numbers a network computes, and whether its steps are compiled; weights stay float32."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError, MachineError

Forward = Callable[[Tensor], Tensor]


def forward(config: TrainConfig, network: nn.Module, device: torch.device) -> Forward:
    """What turns inputs into logits float32: `network`, with the arithmetic that `config` asks for.

    `float32` is the arithmetic of the plain loop, `tf32` rounds the factors of matrix products to 10 bits,
    `bfloat16` computes products in 8 bits. What is compiled raises `MachineError` at its first call where
    torch cannot compile it; for `ConfigError` see `check`.
    """
    check(config, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    compute = _compiled(network) if config.compile else network

    def in_bfloat16(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return compute(inputs).float()

    return in_bfloat16 if config.precision == "bfloat16" else compute


def check(config: TrainConfig, device: torch.device) -> None:
    """Raise `ConfigError` for a precision that `device` does not have."""
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError([f"precision: got 'tf32', accepted on {device}: float32, bfloat16"])


def _compiled(network: nn.Module) -> Forward:
    from torch._dynamo.exc import BackendCompilerFailed  # 1.3 s

    compiled: Forward = torch.compile(network)

    def compute(inputs: Tensor) -> Tensor:
        try:
            return compiled(inputs)
        except BackendCompilerFailed as error:
            raise MachineError(f"torch cannot compile the network: {str(error).splitlines()[0]}") from None

    return compute
