"""From `multipart/form-data` to images: every part is a picture file, as `curl -F file=@x.png` sends it."""

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser

from relearn.model.errors import InputError
from relearn.serving.accepted import Accepted
from relearn.serving.guard import Refusal
from relearn.serving.pictures import PICTURES, from_files


def from_form(body: bytes, accepted: Accepted, boundary: str) -> np.ndarray:
    """The files of a form in their order; what their fields are called makes no difference.

    A part with neither a file name nor the media type of a picture is a text: a path or URL in it is neither
    read nor fetched. Raises `Refusal` 400 where the parts cannot be told apart.
    """
    files: list[bytes] = []
    ended: list[bool] = []

    def keep(content: bytes) -> None:
        accepted.check_count(len(files) + 1)
        files.append(content)

    try:
        parser = FormParser(
            "multipart/form-data",
            lambda field: keep(_picture(field)),
            lambda file: keep(_content(file)),
            lambda: ended.append(True),
            boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body), "UPLOAD_ERROR_ON_BAD_CTE": True},  # never on disk
        )
        parser.write(body)
    except FormParserError:
        ended.clear()
    if not ended:
        raise Refusal(400, "invalid_multipart", "body: no valid multipart/form-data for its boundary")
    accepted.check_count(len(files))
    return from_files({f"file {index}": content for index, content in enumerate(files, 1)}, accepted)


def _content(file: File) -> bytes:
    file.file_object.seek(0)
    return file.file_object.read()


def _picture(field: Field) -> bytes:
    if field.content_type not in PICTURES:
        raise InputError("form: got a field with text, accepted: PNG or JPEG files", "wrong_type")
    return field.value or b""
