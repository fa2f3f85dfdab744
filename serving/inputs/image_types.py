"""Image formats that a request may contain: the names for messages, and the media types.

The decoders are in `relearn.model.images`.
"""

from relearn.model.images.formats import REQUEST_FORMATS

MEDIA_TYPE_BY_FORMAT = {
    image_format.name: f"image/{image_format.name.lower()}" for image_format in REQUEST_FORMATS
}
IMAGE_TYPES = tuple(MEDIA_TYPE_BY_FORMAT.values())
IMAGE_FORMATS = " or ".join(MEDIA_TYPE_BY_FORMAT)
