"""From `multipart/form-data` to images: every part is a picture file, as `curl -F file=@x.png` sends it."""

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser

from relearn.model.errors import UserInputError
from relearn.serving.http.requests import HTTPError
from relearn.serving.inputs.image_files import IMAGE_TYPES, parse_images
from relearn.serving.inputs.input_spec import InputSpec


def parse_multipart(body: bytes, input_spec: InputSpec, boundary: str) -> np.ndarray:
    """The files of a form in their order; what their fields are called makes no difference.

    A part with neither a file name nor the media type of a picture is a text: a path or URL in it is neither
    read nor fetched. Raises `Refusal` 400 where the parts cannot be told apart.
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
        raise HTTPError(400, "invalid_multipart", "body: no valid multipart/form-data for its boundary")
    input_spec.check_image_count(len(files))
    return parse_images({f"file {index}": content for index, content in enumerate(files, 1)}, input_spec)


def _read_file(file: File) -> bytes:
    file.file_object.seek(0)
    return file.file_object.read()


def _read_image_field(field: Field) -> bytes:
    if field.content_type not in IMAGE_TYPES:
        raise UserInputError("form: got a field with text, accepted: PNG or JPEG files", "wrong_type")
    return field.value or b""
