"""Promise: an image file gives a network the same pixels in its training data and in a request."""

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home
from relearn.serving.inputs.image_files import parse_image
from relearn.serving.inputs.input_spec import InputSpec

KINDS = [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "LA"), ("PNG", "P")]


def make_photo(rng: np.random.Generator, is_gray: bool, has_dark_edge: bool = False) -> bytes:
    """Make a photo of a random size, format and rotation."""
    image_format, mode = KINDS[rng.integers(len(KINDS))]
    noise = rng.integers(0, 256, (9, 13, 3), np.uint8)
    photo = Image.fromarray(noise[..., :1].repeat(3, 2) if is_gray else noise)
    width, height = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(1500), 2)))
    if has_dark_edge:  # as drawings with white ink
        photo = Image.fromarray(np.pad(np.asarray(photo), [(4, 4), (4, 4), (0, 0)]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = int(rng.integers(1, 9))
    buffer = io.BytesIO()
    photo = photo.resize((width, height), Image.Resampling.BICUBIC).convert("L" if is_gray else mode)
    photo.save(buffer, image_format, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(("is_gray", "has_dark_edge"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("size", [16, 50])
def test_same_pixels_online_and_offline(
    tmp_path: Path, size: int, channels: int | None, is_gray: bool, has_dark_edge: bool
) -> None:
    """JPEG and PNG of any size, mode and rotation, small or reduced while decoding, in gray or in color."""
    rng = np.random.default_rng([size, channels or 0, is_gray])
    contents = defaultdict[str, list[bytes]](list)
    for index in range(24):
        content, label = make_photo(rng, is_gray, has_dark_edge), str(index % 2)
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / label / f"{index:02}.img").write_bytes(content)
        contents[label].append(content)
    config = TrainConfig(dataset=f"folder:{tmp_path / 'set'}", image_size=size, channels=channels)
    dataset = load_dataset(config, Home(tmp_path / "home", tmp_path))
    assert (channels or (1 if is_gray else 3)) == dataset.shape[0]
    spec = InputSpec(dataset.shape, dataset.style, max_images=1)
    online = [parse_image(content, spec)[0] for content in contents["0"] + contents["1"]]
    assert np.array_equal(online, dataset.train.images)
