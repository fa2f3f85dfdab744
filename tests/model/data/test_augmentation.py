"""Augmentation: changes of training images by random numbers, within their bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass

from relearn.model.config import TrainConfig
from relearn.model.data.augmentation import (
    COLOR_CHANGE,
    DISTORTIONS,
    GROUP_SIZE,
    MAX_ROTATION_DEGREES,
    MAX_SCALE_CHANGE,
    MAX_TRANSLATION,
    MIN_CROP_AREA,
    NUMBERS,
    augment,
    draw_numbers,
)

COUNT = 256


def draw(name: str, count: int = COUNT, seed: int = 0) -> torch.Tensor:
    numbers = draw_numbers(name, count, torch.Generator().manual_seed(seed))
    assert numbers is not None
    return numbers


def make_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def make_squares(count: int, side: int) -> torch.Tensor:
    """A bright square of `side` pixels in the middle of dark images, uint8 (count, 1, 28, 28)."""
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    edge = (28 - side) // 2
    images[..., edge : edge + side, edge : edge + side] = 200
    return images


def test_every_choice_of_the_setting_has_an_augmentation() -> None:
    """The names are those of the setting, and `none` draws nothing."""
    accepted = TrainConfig.model_json_schema()["properties"]["augmentation"]["enum"]
    assert ["none", *NUMBERS] == accepted
    assert draw_numbers("none", 9, torch.Generator()) is None


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(list(NUMBERS)),
    channels=st.sampled_from([1, 3]),
    sides=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    count=st.integers(1, 2 * GROUP_SIZE + 1),
    seed=st.integers(0, 2**32),
)
def test_images_depend_on_their_numbers_alone(
    name: str, channels: int, sides: tuple[int, int], count: int, seed: int
) -> None:
    """The same numbers give the same float32 images in 0–255, and the originals stay as they are."""
    images, numbers = make_images(count, channels, *sides), draw(name, count, seed)
    before = images.clone()
    augmented = augment(name, images, numbers)
    assert (torch.float32, before.shape) == (augmented.dtype, augmented.shape)
    assert 0 <= augmented.min() <= augmented.max() <= 255
    assert torch.equal(augmented, augment(name, images, numbers))
    assert torch.equal(before, images)


@pytest.mark.parametrize("name", NUMBERS)
def test_each_image_is_changed_in_its_own_way(name: str) -> None:
    """Equal images become different ones, and another seed gives others."""
    images = make_images(1, 3, 16, 16).expand(COUNT, -1, -1, -1)
    augmented = augment(name, images, draw(name))
    assert COUNT == len({image.numpy().tobytes() for image in augmented})
    assert not torch.equal(augmented, augment(name, images, draw(name, seed=1)))


@pytest.mark.parametrize("name", NUMBERS)
def test_middle_numbers_of_light_and_photo_change_little(name: str) -> None:
    """With the middle of all numbers `light` changes nothing, a photo is only cropped and enlarged."""
    numbers, images = torch.full((NUMBERS[name], 3), 0.5), make_images(3, 3, 28, 20)
    augmented = augment(name, images, numbers)
    if name == "light":
        torch.testing.assert_close(images.float(), augmented, atol=1e-2, rtol=0)
    assert (augmented.mean() - images.float().mean()).abs() < 12


def test_light_changes_stay_within_their_bounds() -> None:
    """The center of mass moves by at most the largest shift, and the bright area grows with the scale."""
    augmented = augment("light", make_squares(COUNT, 8), draw("light")).numpy()[:, 0]
    shifts = np.abs([center_of_mass(image) for image in augmented]) - 13.5
    assert 0.8 * MAX_TRANSLATION * 28 < shifts.max() < MAX_TRANSLATION * 28 * (1 + MAX_SCALE_CHANGE) + 0.05
    areas = augmented.sum((1, 2)) / (8 * 8 * 200)
    assert (1 - MAX_SCALE_CHANGE) ** 2 - 0.02 < areas.min() < 0.92
    assert 1.08 < areas.max() < (1 + MAX_SCALE_CHANGE) ** 2 + 0.02


def test_light_rotates_within_its_bound() -> None:
    """The largest number rotates a bar by the largest angle."""
    bar = torch.zeros(1, 1, 101, 101, dtype=torch.uint8)
    bar[..., 49:52, 10:91] = 200
    rotated = augment("light", bar, torch.tensor([[0.5], [0.5], [1.0], [0.5]]))[0, 0].numpy()
    rows, columns = np.nonzero(rotated > 100)
    angle = np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0]))
    assert MAX_ROTATION_DEGREES == pytest.approx(abs(angle), abs=0.3)


def test_photo_crops_lie_inside_the_image() -> None:
    """Crops of two ramps are rectangles of an allowed area, half of them flipped."""
    ramp = torch.linspace(0, 240, 81).round().to(torch.uint8)
    image = torch.stack([ramp.expand(81, 81), ramp[:, None].expand(81, 81), torch.zeros(81, 81)]).to(
        torch.uint8
    )
    numbers = draw("photo")
    numbers[5:] = 0.5  # of the colors
    augmented = augment("photo", image.expand(COUNT, -1, -1, -1), numbers)
    widths = (augmented[:, 0, :, -1] - augmented[:, 0, :, 0]).mean(1) / 240
    heights = (augmented[:, 1, -1] - augmented[:, 1, 0]).mean(1) / 240
    areas = widths.abs() * heights
    assert MIN_CROP_AREA - 0.03 < areas.min() < MIN_CROP_AREA + 0.1
    assert 0.9 < areas.max() <= 1
    assert (heights > 0).all()
    assert 0.4 < (widths < 0).float().mean() < 0.6
    assert augmented[:, :2].max() <= 240


def test_photo_colors_stay_within_their_bounds() -> None:
    """The mean of a gray photo changes by the factor of its brightness, and it stays gray."""
    images = make_images(COUNT, 1, 16, 16).div(4).to(torch.uint8).expand(-1, 3, -1, -1)
    numbers = draw("photo")
    numbers[1], numbers[6] = 1.0, 0.5  # the whole image, the same contrast
    augmented = augment("photo", images, numbers)
    torch.testing.assert_close(augmented[:, 0], augmented[:, 2], atol=1e-3, rtol=0)
    factors = augmented.mean((1, 2, 3)) / images.float().mean((1, 2, 3))
    assert 1 - COLOR_CHANGE - 0.1 < factors.min() < 0.7
    assert 1.3 < factors.max() < 1 + COLOR_CHANGE + 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_every_distortion_can_be_chosen(channels: int) -> None:
    """Each number chooses one that changes a photo; those with a sign change it in two ways."""
    photo = make_images(1, channels, 24, 24) // 2 + 100
    whole = torch.full((8, 1), 0.5)
    whole[1] = 1.0
    plain, results = augment("photo", photo, whole), set()
    for choice in range(2 * len(DISTORTIONS)):
        numbers = torch.full((2, 1), (choice + 0.5) / (2 * len(DISTORTIONS)))
        changed = augment("strong", photo, torch.cat([numbers, whole]))
        assert not torch.equal(plain, changed)
        results.add(changed.numpy().tobytes())
    without_sign = 4
    assert 2 * len(DISTORTIONS) - without_sign == len(results)
