"""Promise: the value that is white in the training data is white in requests too."""

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.errors import DataError, UserInputError
from relearn.model.home import Home
from relearn.model.images.scale import scale_from_uint8, scale_to_uint8
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import parse_body
from relearn.serving.predictions.feedback import parse_feedback

SIDE, COUNT = 8, 12
SCALES = st.one_of(st.sampled_from([1, 16, 255, 1023, 4095, 65_535]), st.integers(1, 65_535))


def make_numbers(scale: int, seed: int, whole: bool) -> np.ndarray:
    """Make images, (COUNT, SIDE, SIDE), with numbers from 0 to `scale`, both among them."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, scale, (COUNT, SIDE, SIDE), endpoint=True)
    if scale == 1 and not whole:
        numbers = rng.random((COUNT, SIDE, SIDE)).round(6)
    numbers[0, 0, :2] = 0, scale
    return numbers


def write_table(folder: Path, numbers: np.ndarray, scale: int) -> Path:
    """Write numbers as a CSV, and the dataset.toml that says which value is white."""
    header = ",".join(["label", *(f"pixel{number}" for number in range(SIDE * SIDE))])
    rows = [",".join(map(str, ["ab"[row % 2], *image.ravel()])) for row, image in enumerate(numbers)]
    (folder / "data.csv").write_text("\n".join([header, *rows]))
    return write_description(folder, "data.csv", "pixel_table", scale)


def write_description(folder: Path, source: str, layout: str, scale: int) -> Path:
    file = folder / "dataset.toml"
    file.write_text(f'source = "{source}"\nlayout = "{layout}"\nscale = {scale}\n')
    return file


def prepare(source: Path, folder: Path) -> tuple[PreparedDataset, ModelCard]:
    """Prepare a data set, and make the card of a classifier trained on it."""
    config = TrainConfig(dataset=str(source), validation_fraction=0.3, test_fraction=0.3)
    prepared = prepare_dataset(config, Home(folder / "home", folder))
    network = build_network(config, prepared.shape, len(prepared.classes))
    return prepared, ModelCard.from_network(config, prepared, network)


def sort_images(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def all_images(prepared: PreparedDataset) -> list[bytes]:
    return sort_images(np.concatenate([split.images for split in vars(prepared.splits).values()]))


@given(scale=SCALES, seed=st.integers(0, 2**32), whole=st.booleans())
@example(scale=1, seed=0, whole=False)
@example(scale=4095, seed=0, whole=True)
@settings(max_examples=12, deadline=None)
def test_numbers_are_the_same_online_and_offline(scale: int, seed: int, whole: bool) -> None:
    """Numbers of a table give a network the same pixels as JSON, raw bytes and feedback do."""
    numbers = make_numbers(scale, seed, whole)
    with TemporaryDirectory() as folder:
        prepared, card = prepare(write_table(Path(folder), numbers, scale), Path(folder))
        offline = all_images(prepared)
    spec = InputSpec.from_card(card, COUNT)
    assert (scale, scale) == (card.scale, spec.scale)
    body = json.dumps({"images": numbers.tolist()}).encode()
    assert offline == sort_images(parse_body(MediaType("application/json", {}), body, spec))
    feedback = [
        parse_feedback(json.dumps({"request_id": "1", "label": "a", "image": image.tolist()}).encode(), card)
        for image in numbers
    ]
    assert offline == sorted(item.pixels or b"" for item in feedback)
    if numbers.dtype.kind == "i":
        raw = numbers.astype("u1" if scale <= 255 else "<u2").tobytes()
        assert offline == sort_images(parse_body(MediaType("application/octet-stream", {}), raw, spec))


@given(bits=st.integers(9, 16), seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_deep_files_are_the_same_online_and_offline(bits: int, seed: int) -> None:
    """Image files of 9 to 16 bits a pixel are read in a request as in training."""
    scale, contents = 2**bits - 1, list[bytes]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, image in enumerate(make_numbers(scale, seed, whole=True)):
            buffer = io.BytesIO()
            Image.fromarray(image.astype(np.uint16)).save(buffer, "PNG")
            file = folder / "images" / "ab"[number % 2] / f"{number}.img"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(buffer.getvalue())
            contents.append(buffer.getvalue())
        prepared, card = prepare(write_description(folder, "images", "folder", scale), folder)
        offline = all_images(prepared)
    spec = InputSpec.from_card(card, 1)
    online = [parse_body(MediaType("image/png", {}), content, spec)[0] for content in contents]
    assert offline == sort_images(np.array(online))


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (json.dumps({"images": [17] * SIDE * SIDE}).encode(), "application/json"),
        (json.dumps({"images": [1.5] * SIDE * SIDE}).encode(), "application/json"),
        (bytes([17] * SIDE * SIDE), "application/octet-stream"),
    ],
)
def test_numbers_beyond_the_scale_are_refused(body: bytes, media_type: str) -> None:
    """A number above white, or a fraction where white is not 1, has a message with the accepted numbers."""
    spec = InputSpec((1, SIDE, SIDE), "photo", 1, scale=16)
    with pytest.raises(UserInputError, match=r"accepted: (integers 0–16|uint8 from 0 to 16)"):
        parse_body(MediaType(media_type, {}), body, spec)


def test_file_beyond_the_scale_is_refused() -> None:
    """A file with a value above the white of the training files is not read as something else."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), 4096, np.uint16)).save(buffer, "PNG")
    spec = InputSpec((1, SIDE, SIDE), "photo", 1, scale=4095, file_scale=4095)
    with pytest.raises(UserInputError, match="values up to 4096, accepted: 0 to 4095"):
        parse_body(MediaType("image/png", {}), buffer.getvalue(), spec)


@given(scale=st.one_of(st.just(1), st.integers(255, 65_535)))
def test_bytes_survive_the_scale(scale: int) -> None:
    """Each byte has a number that a request can send, where white has at least 8 bits or 1 is white."""
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(values, scale_to_uint8(scale_from_uint8(values, scale), scale))


@given(scale=st.integers(2, 254))
def test_rounded_bytes_survive_the_scale(scale: int) -> None:
    """Bytes that were rounded to the numbers of a smaller scale are rounded no further."""
    values = np.arange(256, dtype=np.uint8)
    rounded = scale_to_uint8(scale_from_uint8(values, scale), scale)
    assert np.array_equal(rounded, scale_to_uint8(scale_from_uint8(rounded, scale), scale))
    assert np.abs(rounded.astype(int) - values).max() <= 128 / scale + 1


def test_data_of_another_scale_are_refused(tmp_path: Path) -> None:
    """A classifier whose white is 16 takes no data whose white is 255."""
    _, card = prepare(write_table(tmp_path, make_numbers(16, 0, whole=True), 16), tmp_path)
    card.check_scale("later.csv", 16)
    with pytest.raises(DataError, match=r"later\.csv: 255 is white in the data, accepted: 16"):
        card.check_scale("later.csv", 255)
