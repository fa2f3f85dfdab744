"""Promise of torchvision's import: it works with any build of torch."""

import subprocess
import sys

CODE = """
import torch
from relearn.model.data.download import torchvision
module = torchvision()
from torchvision.transforms import v2
assert module is torchvision()
images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
print(*v2.RandomAffine(10, (0.1, 0.1))(images).shape)
"""


def test_torchvision_is_imported_with_any_build_of_torch() -> None:
    """Transforms work in a fresh process, even without its compiled part; a second import is the same."""
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (0, "4 1 28 28\n", "") == (result.returncode, result.stdout, result.stderr)
