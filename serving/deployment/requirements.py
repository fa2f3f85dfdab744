"""What `model` and `serving` import while they serve, or a floor that BentoML leaves open.

`python -m relearn.serving.deployment.requirements` prints it, for an image that does no more than serve.
"""

REQUIREMENTS = (
    "bentoml",
    "filelock",
    "httptools",
    "msgspec",
    "numpy",
    "pandas",
    "pillow",
    "prometheus-client",
    "psutil",
    "pydantic",
    "python-multipart",
    "safetensors",
    "scipy",
    "starlette",
    "torch",
    "uvloop",
)

if __name__ == "__main__":
    print(*REQUIREMENTS)  # noqa: T201
