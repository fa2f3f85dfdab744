"""Memory, numeric precision and compilation: effects, and errors for what the machine lacks."""

import ctypes
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

COUNT_PAGE_FAULTS = """
import resource, torch
from relearn.model.devices import tune_malloc

def count_page_faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**21)  # 8 MB, 2048 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

by_default = count_page_faults()
tune_malloc()
count_page_faults()
print(by_default, count_page_faults())
"""

COMPILE_WITHOUT_COMPILER = """
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


def make_config(**settings: object) -> TrainConfig:
    return TrainConfig.parse({"hidden_sizes": [32], "dropout": 0, **settings})


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has mallopt")
def test_memory_that_torch_frees_is_reused() -> None:
    """The system does not clear the same pages again for every batch."""
    process = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True
    )
    by_default, tuned = map(int, process.stdout.split())
    assert by_default > 2 * 2048
    assert tuned < 100


def test_bfloat16_rounds_products_only() -> None:
    """Layers return bfloat16; logits are close to those of float32; weights and gradients are float32."""
    config = make_config(precision="bfloat16")
    network = build_network(config, SHAPE, CLASSES)
    dtypes: list[torch.dtype] = []
    network[0].register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
    logits = build_forward(config, network, CPU)(INPUTS)
    logits.sum().backward()

    assert [torch.bfloat16] == dtypes
    torch.testing.assert_close(network(INPUTS), logits, rtol=0.02, atol=0.02)
    assert not torch.equal(network(INPUTS), logits)
    assert {torch.float32} == {tensor.dtype for tensor in (logits, network[0].weight, network[0].weight.grad)}


def test_tf32_is_accepted_on_gpus_only() -> None:
    """On a CPU one line lists the accepted precisions."""
    config = make_config(precision="tf32")
    with pytest.raises(ConfigError, match="precision: got 'tf32', accepted on cpu: float32, bfloat16"):
        build_forward(config, build_network(config, SHAPE, CLASSES), CPU)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.needs("g++")
def test_compiled_network_gives_the_same_results() -> None:
    """Logits and gradients equal those without compilation, up to the last bits."""
    config = make_config(compile=True)
    network, plain = build_network(config, SHAPE, CLASSES), build_network(config, SHAPE, CLASSES)

    def logits_and_gradient(forward: Forward, network: nn.Module) -> tuple[Tensor, Tensor]:
        logits = forward(INPUTS)
        logits.square().sum().backward()
        return logits, next(network.parameters()).grad

    for expected, actual in zip(
        logits_and_gradient(plain, plain),
        logits_and_gradient(build_forward(config, network, CPU), network),
        strict=True,
    ):
        torch.testing.assert_close(expected, actual, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_missing_compiler_is_reported_in_one_line() -> None:
    """The message names the program that torch needs."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE_WITHOUT_COMPILER],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "torch cannot compile the network: InvalidCxxCompiler: No working C++ compiler" in process.stdout
