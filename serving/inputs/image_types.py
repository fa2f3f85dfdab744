"""Image formats that a request may contain: the names for messages, and the media types.

The decoders are in `relearn.model.images`.
"""

MEDIA_TYPE_BY_FORMAT = {"PNG": "image/png", "JPEG": "image/jpeg"}
IMAGE_TYPES = tuple(MEDIA_TYPE_BY_FORMAT.values())
IMAGE_FORMATS = " or ".join(MEDIA_TYPE_BY_FORMAT)
