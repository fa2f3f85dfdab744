"""Other arithmetic: what it changes, what it leaves alone, and where it is refused."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from relearn.model.config import TrainConfig
from relearn.model.devices import Forward, build_forward
from relearn.model.errors import ConfigError
from relearn.model.networks.registry import build_network

SHAPE, CLASSES = (1, 12, 12), 4
CPU = torch.device("cpu")
INPUTS = torch.rand(8, 144)

WITHOUT_A_COMPILER = """
import os
os.environ["PATH"] = "/nothing"
os.environ.pop("CXX", None)
import torch
from relearn.model.devices import build_forward
from relearn.model.config import TrainConfig
from relearn.model.errors import InfrastructureError
from relearn.model.networks.registry import build_network
config = TrainConfig(compile=True, hidden_sizes=(8,))
try:
    build_forward(config, build_network(config, (1, 8, 8), 4), torch.device("cpu"))(torch.rand(8, 64))
except InfrastructureError as error:
    print(error)
"""


def settings(**changed: object) -> TrainConfig:
    return TrainConfig.parse({"hidden_sizes": [32], **changed})


def test_bfloat16_rounds_products_and_nothing_else() -> None:
    """Layers give bfloat16; the logits are near those of float32, and weights and gradients are float32."""
    config = settings(precision="bfloat16")
    network = build_network(config, SHAPE, CLASSES)
    seen: list[torch.dtype] = []
    network[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    logits = build_forward(config, network, CPU)(INPUTS)
    logits.sum().backward()

    assert [torch.bfloat16] == seen
    torch.testing.assert_close(network(INPUTS), logits, rtol=0.02, atol=0.02)
    assert not torch.equal(network(INPUTS), logits)
    assert {torch.float32} == {one.dtype for one in (logits, network[0].weight, network[0].weight.grad)}


def test_tf32_is_for_gpus() -> None:
    """Elsewhere one line says what is accepted."""
    config = settings(precision="tf32")
    with pytest.raises(ConfigError, match="precision: got 'tf32', accepted on cpu: float32, bfloat16"):
        build_forward(config, build_network(config, SHAPE, CLASSES), CPU)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.needs("g++")
def test_a_compiled_network_gives_the_same() -> None:
    """Logits and gradients as without, up to the last bits."""
    config = settings(compile=True)
    network, plain = build_network(config, SHAPE, CLASSES), build_network(config, SHAPE, CLASSES)

    def gradient(compute: Forward, of: nn.Module) -> tuple[Tensor, Tensor]:
        logits = compute(INPUTS)
        logits.square().sum().backward()
        return logits, next(of.parameters()).grad

    for expected, got in zip(
        gradient(plain, plain), gradient(build_forward(config, network, CPU), network), strict=True
    ):
        torch.testing.assert_close(expected, got, rtol=1e-4, atol=1e-6)


def test_without_a_compiler_it_is_one_line() -> None:
    """What torch needs to compile is named."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_A_COMPILER], capture_output=True, text=True, check=True
    )
    assert "torch cannot compile the network: InvalidCxxCompiler: No working C++ compiler" in done.stdout
