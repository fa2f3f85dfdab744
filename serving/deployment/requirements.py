"""Requirements of a server: libraries that `model` and `serving` import, and lower bounds for BentoML.

`python -m relearn.serving.deployment.requirements` prints the requirements, for an image that only serves.
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
    "uvicorn",
    "uvloop",
)

if __name__ == "__main__":
    print(*REQUIREMENTS)  # noqa: T201
