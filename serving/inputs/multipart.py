"""Parsing `multipart/form-data` into images: each part is a file, as sent by `curl -F file=@x.png`."""

import re

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser

from relearn.model.errors import UserInputError
from relearn.model.images.formats import FORMAT_NAMES, HEADER_BYTES, recognize_format
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.image_files import parse_images
from relearn.serving.inputs.input_spec import InputSpec


def parse_multipart(body: bytes, input_spec: InputSpec, boundary: str) -> np.ndarray:
    """Parse the files of a form in their order; field names are ignored.

    A part with neither a file name nor an image in it, by media type or content, is a text field and is
    rejected: a path or URL in it is neither read nor fetched. Raises `HTTPError` 400 if the form cannot be
    split into parts.
    """
    files: dict[str, bytes] = {}
    end_events: list[bool] = []

    def add_file(part: Field | File, content: bytes) -> None:
        input_spec.check_image_count(len(files) + 1)
        files[f"file {len(files) + 1}{_format_name(part)}"] = content

    try:
        parser = FormParser(
            "multipart/form-data",
            lambda field: add_file(field, _read_image_field(field)),
            lambda file: add_file(file, _read_file(file)),
            lambda: end_events.append(True),
            boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body), "UPLOAD_ERROR_ON_BAD_CTE": True},  # never on disk
        )
        parser.write(body)
    except FormParserError:
        end_events.clear()
    if not end_events:
        raise HTTPError(400, "invalid_multipart", "body: invalid multipart/form-data for its boundary")
    input_spec.check_image_count(len(files))
    return parse_images(files, input_spec)


def _format_name(part: Field | File) -> str:
    """Format the name of a form's field for a message, if it is short and plain."""
    name = (part.field_name or b"").decode("latin-1")
    return f' of field "{name}"' if re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,40}", name) else ""


def _read_file(file: File) -> bytes:
    file.file_object.seek(0)
    return file.file_object.read()


def _read_image_field(field: Field) -> bytes:
    content = field.value or b""
    if not str(field.content_type).startswith("image/") and not recognize_format(content[:HEADER_BYTES]):
        raise UserInputError(
            f"form: got text{_format_name(field)}, accepted: {FORMAT_NAMES} files only, as from curl -F"
            " file=@image.png",
            "wrong_type",
        )
    return content
