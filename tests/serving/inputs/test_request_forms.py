"""Request bodies as clients send them: the exact images are read, or the refusal says what to send."""

import base64
import io
import json
import re
import textwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relearn.model.errors import UserInputError
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import parse_body, parse_raw, recognize_media_type
from relearn.serving.inputs.parse_json import parse_json

SPEC = InputSpec((1, 6, 8), "photo", max_images=4)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}, "TIFF": {}, "GIF": {}}
JSON_TYPES = ("application/json", "", "*/*", "image/png")
FILE_TYPES = ("", "*/*", "image/*", "image/png", "image/jpg", "image/jpeg", "image/x-png", "application/json")
OTHER_TYPES = ("text/plain", "application/xml", "application/x-www-form-urlencoded", "video/mp4")


def parse(declared: str, body: bytes, **parameters: str) -> np.ndarray:
    return parse_body(recognize_media_type(MediaType(declared, parameters), body), body, SPEC)


def encode_file(image: np.ndarray, file_format: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image[0]).save(content, file_format, **LOSSLESS[file_format])
    return content.getvalue()


def encode_text(file: bytes, *, url_safe: bool, padded: bool, width: int, prefix: str) -> str:
    """Encode a file in base64, in lines of `width` characters, after `prefix`."""
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(file).decode()
    return prefix + "\r\n".join(textwrap.wrap(text if padded else text.rstrip("="), width))


images = st.integers(0, 2**32).map(
    lambda seed: np.random.default_rng(seed).integers(0, 256, (1 + seed % 4, *SPEC.shape), np.uint8)
)
file_formats = st.sampled_from(sorted(LOSSLESS))
base64_forms = st.fixed_dictionaries(
    {
        "url_safe": st.booleans(),
        "padded": st.booleans(),
        "width": st.sampled_from([76, 64, 10_000]),
        "prefix": st.sampled_from(["", "data:image/png;base64,", "DATA:;base64,", "data:x/y;a=b;base64,"]),
    }
)
scales = st.sampled_from([None, 255, 1])


@settings(max_examples=100, deadline=None)
@given(images, st.sampled_from(SPEC.accepted_shapes), st.sampled_from(JSON_TYPES), scales, st.booleans())
def test_numbers_are_read_exactly(
    batch: np.ndarray, shape: tuple[int, ...], declared: str, scale: int | None, has_mark: bool
):
    """Integers, 12.0 and fractions of 1 in any nesting, with a byte order mark and other types or without."""
    numbers = batch.reshape(-1, *shape) / 255 if scale == 1 else batch.reshape(-1, *shape) * 1.0
    content = {"images": (numbers if has_mark or scale == 1 else numbers.astype(int)).tolist()}
    body = json.dumps(content | ({"scale": scale} if scale else {})).encode()
    assert np.array_equal(batch, parse(declared, (b"\xef\xbb\xbf" if has_mark else b"") + body))


@settings(max_examples=100, deadline=None)
@given(images, file_formats, st.sampled_from(FILE_TYPES))
def test_files_are_read_by_content(batch: np.ndarray, file_format: str, declared: str):
    """The content of a file decides, whatever image type is declared, or none."""
    assert np.array_equal(batch[:1], parse(declared, encode_file(batch[0], file_format)))


@settings(max_examples=100, deadline=None)
@given(images, file_formats, base64_forms, st.sampled_from(JSON_TYPES))
def test_base64_is_read_in_every_spelling(
    batch: np.ndarray, file_format: str, form: dict[str, Any], declared: str
):
    """Standard or URL-safe, padded or not, in lines or a data URL: the same images."""
    texts = [encode_text(encode_file(image, file_format), **form) for image in batch]
    assert np.array_equal(batch, parse(declared, json.dumps({"images": texts}).encode()))


@settings(max_examples=50, deadline=None)
@given(images, file_formats)
def test_raw_pixels_that_are_no_pixels_are_refused(batch: np.ndarray, file_format: str):
    """Raw pixels are read, but an image file or JSON declared as raw pixels is not, whatever its length."""
    raw_type = "application/octet-stream"
    assert np.array_equal(batch, parse(raw_type, batch.tobytes()))
    file = encode_file(batch[0], file_format)
    for content, name in ((file, f"image/{file_format.lower()}"), (b'{"images": [1]}', "application/json")):
        padded = content.ljust(-(-len(content) // 48) * 48)
        with pytest.raises(UserInputError, match=rf"accepted: this body with Content-Type: {name}"):
            parse(raw_type, padded)


@settings(max_examples=50, deadline=None)
@given(images, st.sampled_from(OTHER_TYPES), st.booleans())
def test_other_types_are_refused_by_name(batch: np.ndarray, declared: str, is_file: bool):
    """Types of no image are refused; the message names the type and what the body is."""
    body = encode_file(batch[0], "PNG") if is_file else json.dumps({"images": batch.tolist()}).encode()
    content_type = "image/png" if is_file else "application/json"
    message = re.escape(f"got {declared} for a body of {content_type}, ")
    with pytest.raises(UserInputError, match=message) as caught:
        parse(declared, body)
    assert (415, "unsupported_media_type") == (caught.value.http_status, caught.value.code)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 0.0, 1.0, 0.5, 0.25]), min_size=48, max_size=48), scales)
def test_numbers_up_to_1_need_a_scale(numbers: list[float], scale: int | None):
    """Numbers up to 1 have two readings, unless all are 0; the scale chooses one of them."""
    body = json.dumps({"images": numbers} | ({"scale": scale} if scale else {})).encode()
    is_whole = not np.mod(numbers, 1).any()
    if scale == 1:
        expected = np.round(np.array(numbers) * 255).astype(np.uint8)
    elif is_whole and (scale == 255 or not any(numbers)):
        expected = np.array(numbers).astype(np.uint8)
    else:
        with pytest.raises(UserInputError) as caught:
            parse_json(body, SPEC)
        assert ("not_whole" if scale else "ambiguous_scale") == caught.value.code
        return
    assert np.array_equal(expected, parse_json(body, SPEC).ravel())


@settings(max_examples=50, deadline=None)
@given(images, st.sampled_from([1, 16, 255, 4095, 65_535]))
def test_raw_pixels_up_to_1_are_refused(batch: np.ndarray, white: int):
    """Raw pixels of which none exceeds 1 are scaled ones, unless all are 0 or 1 is white."""
    dtype, spec = np.uint8 if white <= 255 else np.uint16, InputSpec(SPEC.shape, "photo", 4, white)
    masks = batch % 2
    if white == 1 or not masks.any():
        assert np.array_equal(masks * (255 // white), parse_raw(masks.astype(dtype).tobytes(), spec))
        return
    with pytest.raises(UserInputError, match=f"got only 0 and 1, .* from 0 to {white}, not scaled"):
        parse_raw(masks.astype(dtype).tobytes(), spec)


@pytest.mark.parametrize("scale", [1, 255])
def test_scale_of_a_file_is_refused(scale: int):
    """A file says itself what is white, so a scale beside it is refused rather than ignored."""
    text = base64.b64encode(encode_file(np.eye(8, dtype=np.uint8)[None] * 255, "PNG")).decode()
    for value in (text, [text]):
        with pytest.raises(UserInputError, match="scale: got one for image files, accepted: none"):
            parse_json(json.dumps({"images": value, "scale": scale}).encode(), SPEC)


def test_scale_of_the_classifier_needs_no_member():
    """Where 1 is white for the classifier, numbers up to 1 have one reading; else they have two."""
    body = json.dumps({"images": [1] * 48}).encode()
    assert 255 == parse_json(body, InputSpec(SPEC.shape, "photo", 1, 1)).min()
    for scale in (255, 4095):
        with pytest.raises(UserInputError, match=f'"scale": {scale} if {scale} is white'):
            parse_json(body, InputSpec(SPEC.shape, "photo", 1, scale))


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ('{"instances": [{"b64": "AA=="}]}', 'body: got "instances"'),
        ('{"inputs": [[1]]}', 'body: got "inputs"'),
        ('{"dataframe_split": {}}', 'body: got "dataframe_split"'),
        ('{"data": [1]}', 'body: got "data"'),
        ('{"image": "AA=="}', 'body: got "image"'),
        ("[[1, 2]]", "body: got a list"),
        ("{}", 'body: got no "images"'),
        ('{"images": [{"b64": "AA=="}]}', r"images\[0\]: got an object"),
        ('{"images": [null]}', r"images\[0\]: got null"),
        ('{"images": "https://example.org/x.png"}', r"images\[0\]: got a URL, which is not fetched"),
        ('{"images": ["AA==", {}]}', r"images\[1\]: got strings mixed"),
    ],
)
@pytest.mark.parametrize("white", [1, 16, 255, 65_535])
def test_bodies_of_other_servers_are_refused_with_a_right_one(content: str, received: str, white: int):
    """The message names what came and the classifier's scale; a request in it is right as it stands."""
    spec = InputSpec(SPEC.shape, "photo", 4, white, white)
    with pytest.raises(UserInputError, match=received) as caught:
        parse_json(content.encode(), spec)
    assert set(re.findall(r"0–\d+", str(caught.value))) <= {f"0–{white}"}
    if example := re.search(r'\{"images".*\}', str(caught.value)):
        assert (1, 1, 6, 8) == parse_json(example[0].encode(), spec).shape
    else:
        assert "images" in received
