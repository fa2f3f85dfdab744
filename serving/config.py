"""Every setting of the API, written once: type, default, range and one sentence of help."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from relearn.model.config import format_problems
from relearn.model.errors import ConfigError

ENVIRONMENT_PREFIX = "RELEARN_"
# Environment variables of a server's processes: the ids of the process that started the server and will
# end it, and of the server itself, which starts the workers.
PARENT_PID, SERVER_PID = "RELEARN_PARENT_PID", "RELEARN_SERVER_PID"
# The releases folder whose pointer the workers follow, and the folder where they tell what they serve.
RELEASES_DIR, WORKER_STATUS_DIR = "RELEARN_RELEASES_DIR", "RELEARN_WORKER_STATUS_DIR"
# The folder where they count what they answer, and what it lies in: memory, for its files are mapped, and to
# touch a new page of one on a full disk is a signal that ends the worker. A Mac has no such folder.
METRICS_DIR, SHARED_MEMORY = "RELEARN_METRICS_DIR", Path("/dev/shm")  # noqa: S108
# API keys stand in the environment or in a file, never in the table below: what is in it can be a flag, and
# command lines are public.
API_KEYS = "RELEARN_API_KEYS"
# The folder where they record what is asked and answered; without one nothing is recorded.
PREDICTION_LOG_DIR = "RELEARN_PREDICTION_LOG_DIR"
# What a server says to the process that started it where waiting is in vain: in its answers, in its log.
VERSION_HEADER = "x-relearn-version"  # header of /readyz: the version that has just answered
MODEL_CORRUPT_CODE, MODEL_CORRUPT_MESSAGE = "model_corrupt", " cannot be served: "


def _to_absolute_path(value: Any) -> Any:
    """A server's workers run in folders of their own."""
    return Path(value).absolute() if value else None


def _parse_address(value: Any) -> str:
    """BentoML's server takes numbers only, so the one name everybody writes is translated."""
    try:
        return str(ipaddress.ip_address({"localhost": "127.0.0.1"}.get(value, value)))
    except ValueError:
        raise ValueError("localhost or an IP address, such as 127.0.0.1 or 0.0.0.0") from None


class ServeConfig(BaseModel):
    """One server: where it listens, how many workers answer, how much it takes from a client."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: Annotated[str, BeforeValidator(_parse_address)] = Field(
        "127.0.0.1", description="Address to listen on; 127.0.0.1 is this machine only."
    )
    port: int = Field(3000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(1, ge=1, le=64, description="Processes that answer; each holds the classifier.")
    max_body_bytes: int = Field(
        10_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Largest request body in bytes.",
    )
    max_images: int = Field(256, ge=1, le=10_000, description="Most images in one request.")
    max_concurrency: int = Field(
        32, ge=1, le=10_000, description="Most requests a worker has in hand; more are refused at once."
    )
    timeout_seconds: float = Field(
        30.0, gt=0, le=3_600, description="Seconds after which a request is given up."
    )
    api_keys_file: Annotated[Path | None, BeforeValidator(_to_absolute_path)] = Field(
        None, description="File with API keys, one a line; RELEARN_API_KEYS holds them too, never a flag."
    )
    graceful_timeout_seconds: int = Field(
        10, ge=1, le=3_600, description="Seconds that a stopping server gives to requests it has accepted."
    )
    log_predictions: bool = Field(
        True, description="Record predictions, without their images, and take feedback."
    )
    log_max_mb: int = Field(
        256, ge=10, le=1_000_000, description="Most megabytes of records on disk; the oldest go first."
    )
    image_sample_rate: float = Field(
        0.0, ge=0, le=1, description="Share of requests whose images are kept with their records."
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], origins: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Build a config from plain values, strings included; `ConfigError` names every problem at once.

        `origins` are the names of settings that were set under another one, such as a variable.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(format_problems(error, cls.model_fields, origins)) from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings named in `environment`: `RELEARN_MAX_IMAGES` is `max_images`; defaults elsewhere."""
        variables = {name: ENVIRONMENT_PREFIX + name.upper() for name in cls.model_fields}
        values = {name: environment[key] for name, key in variables.items() if environment.get(key)}
        return cls.parse(values, variables)

    def to_environment(self) -> dict[str, str]:
        """What `from_environment` reads back: how settings reach the workers of BentoML's server."""
        values = self.model_dump().items()
        return {
            ENVIRONMENT_PREFIX + name.upper(): "" if value is None else str(value) for name, value in values
        }

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return ipaddress.ip_address(self.host).is_loopback
