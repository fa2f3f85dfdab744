"""Parsing `multipart/form-data` into images: each part is a file, as sent by `curl -F file=@x.png`."""

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser

from relearn.model.errors import UserInputError
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.image_files import parse_images
from relearn.serving.inputs.image_types import IMAGE_FORMATS, IMAGE_TYPES
from relearn.serving.inputs.input_spec import InputSpec


def parse_multipart(body: bytes, input_spec: InputSpec, boundary: str) -> np.ndarray:
    """Parse the files of a form in their order; field names are ignored.

    A part with neither a file name nor an image media type is a text field and is rejected: a path or URL in
    it is neither read nor fetched. Raises `HTTPError` 400 if the form cannot be split into parts.
    """
    files: list[bytes] = []
    end_events: list[bool] = []

    def add_file(content: bytes) -> None:
        input_spec.check_image_count(len(files) + 1)
        files.append(content)

    try:
        parser = FormParser(
            "multipart/form-data",
            lambda field: add_file(_read_image_field(field)),
            lambda file: add_file(_read_file(file)),
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
    return parse_images({f"file {index}": content for index, content in enumerate(files, 1)}, input_spec)


def _read_file(file: File) -> bytes:
    file.file_object.seek(0)
    return file.file_object.read()


def _read_image_field(field: Field) -> bytes:
    if field.content_type not in IMAGE_TYPES:
        raise UserInputError(f"form: got a text field, accepted: {IMAGE_FORMATS} files", "wrong_type")
    return field.value or b""
