"""Promises of preprocessing, and of augmentation: small random shifts, rotations and scalings."""

import numpy as np
import torch
from scipy.ndimage import center_of_mass
from torch.nn import functional as F

from relearn.model.data.transforms import (
    MAX_ROTATION_DEGREES,
    MAX_SCALE_CHANGE,
    MAX_TRANSLATION,
    apply_affine,
    preprocess,
    sample_affine_params,
)

SAMPLE_COUNT = 2**12


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square_image(side: int) -> torch.Tensor:
    """A bright square of `side` pixels in the middle of a dark image, uint8 (1, 1, 28, 28)."""
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    edge = (28 - side) // 2
    image[..., edge : edge + side, edge : edge + side] = 200
    return image


def test_strength_zero_changes_nothing() -> None:
    """The result is float32 in 0–255 with the same values up to rounding."""
    images = torch.randint(0, 256, (5, 3, 28, 20), dtype=torch.uint8)
    augmented = apply_affine(images, sample_affine_params(5, 0.0, make_generator()))
    assert torch.float32 == augmented.dtype
    torch.testing.assert_close(images.float(), augmented, atol=1e-2, rtol=0)


def test_parameters_depend_on_the_seed() -> None:
    """The same seed gives the same matrices, another seed others."""
    assert torch.equal(
        sample_affine_params(9, 1.0, make_generator(1)), sample_affine_params(9, 1.0, make_generator(1))
    )
    assert not torch.equal(
        sample_affine_params(9, 1.0, make_generator(1)), sample_affine_params(9, 1.0, make_generator(2))
    )


def test_shift_rotation_and_scale_stay_within_their_bounds() -> None:
    """At strength 1 each comes close to its bound, at strength 0.5 to half of it."""
    for strength in (1.0, 0.5):
        matrices = sample_affine_params(SAMPLE_COUNT, strength, make_generator())
        (a, b), (c, d) = matrices[:, 0, :2].T, matrices[:, 1, :2].T
        scales = 1 / torch.sqrt(a * d - b * c)
        rotations = torch.rad2deg(torch.atan2(c, a))
        shifts = matrices[:, :, 2].abs() / 2
        for values, bound in (
            (shifts, MAX_TRANSLATION),
            (rotations.abs(), MAX_ROTATION_DEGREES),
            ((scales - 1).abs(), MAX_SCALE_CHANGE),
        ):
            assert 0.97 * bound * strength < values.max() <= bound * strength + 1e-4


def test_images_are_shifted_and_scaled_as_their_matrices_say() -> None:
    """The centre of mass moves within the bounds, and the bright area grows with the scale."""
    matrices = sample_affine_params(64, 1.0, make_generator(3))
    augmented = apply_affine(square_image(8).expand(64, 1, 28, 28), matrices).numpy()[:, 0]
    centers = np.array([center_of_mass(image) for image in augmented]) - 13.5
    scales = 1 / torch.linalg.det(matrices[:, :, :2]).sqrt().numpy()
    assert np.abs(centers).max() < MAX_TRANSLATION * 28 * (1 + MAX_SCALE_CHANGE) * 1.3
    assert 1 < np.abs(centers).max()
    assert 0.98 < np.corrcoef(augmented.sum((1, 2)), scales**2)[0, 1]


def test_rotation_does_not_shear_images_that_are_not_square() -> None:
    """A horizontal bar in a wide image is vertical after a quarter turn, and as long as before."""
    image = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    image[..., 18:22, 30:50] = 200
    quarter_turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    rotated = apply_affine(image, quarter_turn)[0, 0] > 100
    assert (20, 4) == (int(rotated.any(1).sum()), int(rotated.any(0).sum()))


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
