"""Preprocessing: pixels become floats, labels one-hot targets; affine transformations."""

import torch
from torch.nn import functional as F

from relearn.model.data.transforms import apply_affine, preprocess


def test_pixels_become_unit_floats_and_labels_one_hot() -> None:
    """0–255 becomes 0–1, images are flattened on request, labels become rows with a single 1."""
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).reshape(1, 1, 2, 2)
    for flat_input, shape in ((False, (1, 1, 2, 2)), (True, (1, 4))):
        inputs, targets = preprocess(images, torch.tensor([2]), classes=3, flat_input=flat_input)
        assert (shape, torch.float32) == (inputs.shape, inputs.dtype)
        torch.testing.assert_close(torch.tensor([0, 0.2, 1, 0.4]), inputs.flatten())
        assert [[0.0, 0.0, 1.0]] == targets.tolist()


def test_one_hot_and_index_targets_give_the_same_loss() -> None:
    """Categorical cross-entropy on one-hot rows equals that on label indices within 1e-6."""
    logits, labels = torch.randn(64, 10), torch.randint(0, 10, (64,))
    _, targets = preprocess(torch.zeros(64, 1, 2, 2, dtype=torch.uint8), labels, 10)
    torch.testing.assert_close(
        F.cross_entropy(logits, labels), F.cross_entropy(logits, targets), rtol=0, atol=1e-6
    )


def test_rotation_does_not_shear_images_that_are_not_square() -> None:
    """A horizontal bar in a wide image is vertical after a quarter turn, and as long as before."""
    image = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    image[..., 18:22, 30:50] = 200
    quarter_turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    rotated = apply_affine(image, quarter_turn)[0, 0] > 100
    assert (20, 4) == (int(rotated.any(1).sum()), int(rotated.any(0).sum()))
