"""Changed images show what they showed: a little elsewhere, a little turned, a little larger or smaller."""

import numpy as np
import torch
from scipy.ndimage import center_of_mass

from relearn.model.data.augmentation import (
    MAX_ROTATION_DEGREES,
    MAX_SCALE_CHANGE,
    MAX_TRANSLATION,
    apply_affine,
    sample_affine_params,
)

WIDE = 2**12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square(side: int) -> torch.Tensor:
    """A bright square of `side` pixels in the middle of a dark image, uint8 (1, 1, 28, 28)."""
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    edge = (28 - side) // 2
    image[..., edge : edge + side, edge : edge + side] = 200
    return image


def test_without_strength_nothing_changes() -> None:
    """Float32 in 0–255, the same numbers up to rounding."""
    images = torch.randint(0, 256, (5, 3, 28, 20), dtype=torch.uint8)
    got = apply_affine(images, sample_affine_params(5, 0.0, seeded()))
    assert torch.float32 == got.dtype
    torch.testing.assert_close(images.float(), got, atol=1e-2, rtol=0)


def test_a_seed_gives_the_same_changes() -> None:
    """And another seed others."""
    assert torch.equal(sample_affine_params(9, 1.0, seeded(1)), sample_affine_params(9, 1.0, seeded(1)))
    assert not torch.equal(sample_affine_params(9, 1.0, seeded(1)), sample_affine_params(9, 1.0, seeded(2)))


def test_shifts_turns_and_sizes_stay_within_what_is_said() -> None:
    """At strength 1 each reaches close to its bound and not beyond; at half, half."""
    for strength in (1.0, 0.5):
        matrices = sample_affine_params(WIDE, strength, seeded())
        (a, b), (c, d) = matrices[:, 0, :2].T, matrices[:, 1, :2].T
        sizes = 1 / torch.sqrt(a * d - b * c)
        turns = torch.rad2deg(torch.atan2(c, a))
        shifts = matrices[:, :, 2].abs() / 2
        for got, bound in (
            (shifts, MAX_TRANSLATION),
            (turns.abs(), MAX_ROTATION_DEGREES),
            ((sizes - 1).abs(), MAX_SCALE_CHANGE),
        ):
            assert 0.97 * bound * strength < got.max() <= bound * strength + 1e-4


def test_the_middle_moves_and_the_bright_area_grows_as_drawn() -> None:
    """Measured on the picture, not on the matrices."""
    matrices = sample_affine_params(64, 1.0, seeded(3))
    pictures = apply_affine(square(8).expand(64, 1, 28, 28), matrices).numpy()[:, 0]
    centres = np.array([center_of_mass(picture) for picture in pictures]) - 13.5
    sizes = 1 / torch.linalg.det(matrices[:, :, :2]).sqrt().numpy()
    assert np.abs(centres).max() < MAX_TRANSLATION * 28 * (1 + MAX_SCALE_CHANGE) * 1.3
    assert 1 < np.abs(centres).max()
    assert 0.98 < np.corrcoef(pictures.sum((1, 2)), sizes**2)[0, 1]


def test_a_turn_is_a_turn_where_images_are_not_square() -> None:
    """A bar that lies across a wide image stands upright after a quarter turn, as long as before."""
    image = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    image[..., 18:22, 30:50] = 200
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    turned = apply_affine(image, quarter)[0, 0] > 100
    assert (20, 4) == (int(turned.any(1).sum()), int(turned.any(0).sum()))
