"""Images of a prediction request: JSON, raw pixels, image files, multipart forms, query options.

The model's preprocessing lives in `model/images`; limits on body size live in `serving/http`.
"""
