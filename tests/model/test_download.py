"""Promise of torchvision: it can be imported beside any build of torch."""

import subprocess
import sys

CODE = """
import torch
from relearn.model.data.download import torchvision
vision = torchvision()
from torchvision.transforms import v2
assert vision is torchvision()
images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
print(*v2.RandomAffine(10, (0.1, 0.1))(images).shape)
"""


def test_torchvision_is_imported_beside_any_torch() -> None:
    """In a fresh process, also where its compiled part does not fit: transforms work, twice is once."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (0, "4 1 28 28\n", "") == (done.returncode, done.stdout, done.stderr)
