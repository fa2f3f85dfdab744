"""Namespace of three packages: `model` trains and predicts, `serving` is the API, `flows` the pipelines."""
