"""Settings of the API: type, default, range and help text of each."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from relearn.model.config import format_problems
from relearn.model.errors import ConfigError

ENVIRONMENT_PREFIX = "RELEARN_"
# Environment variables with process ids: of the process that starts and stops the server, and of the server,
# which starts the workers.
PARENT_PID, SERVER_PID = "RELEARN_PARENT_PID", "RELEARN_SERVER_PID"
# Folder of the releases whose ledger the workers follow, and folder of the workers' status files.
RELEASES_DIR, WORKER_STATUS_DIR = "RELEARN_RELEASES_DIR", "RELEARN_WORKER_STATUS_DIR"
# Folder of the workers' metrics, and the folder in memory that contains it. The files are memory-mapped: on a
# full disk, a write to a new page would kill the worker with a signal. macOS has no such folder.
METRICS_DIR, SHARED_MEMORY = "RELEARN_METRICS_DIR", Path("/dev/shm")  # noqa: S108
# API keys come from the environment or a file. They are not in `ServeConfig`, because its settings are also
# flags, and every user of a machine can read command lines.
API_KEYS = "RELEARN_API_KEYS"
# Folder of the prediction log; without it, nothing is logged.
PREDICTION_LOG_DIR = "RELEARN_PREDICTION_LOG_DIR"
VERSION_HEADER = "x-relearn-version"  # header of /readyz: the served version
# Error code of a response and message in the log; the process that started the server then stops waiting.
MODEL_CORRUPT_CODE, MODEL_CORRUPT_MESSAGE = "model_corrupt", " cannot be served: "

# Variables that Kubernetes sets in every pod for a service whose name begins with "relearn".
_KUBERNETES_VARIABLE = re.compile(
    r"RELEARN(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_KUBERNETES_PORT_VALUE = re.compile(r"(tcp|udp|sctp)://")
_HOST_NAME = re.compile(r"[a-z0-9.-]+|\[[0-9a-f:.]+\]")
_ORIGIN = re.compile(rf"https?://({_HOST_NAME.pattern})(:[0-9]{{1,5}})?")


def is_set_by_kubernetes(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable for a service; `RELEARN_PORT` is then no port."""
    is_port = name.startswith(ENVIRONMENT_PREFIX) and _KUBERNETES_PORT_VALUE.match(value)
    return bool(is_port or _KUBERNETES_VARIABLE.fullmatch(name))


def _split_list(value: Any) -> tuple[str, ...]:
    """Split comma-separated texts, as flags and variables have them; a host or origin has lower case."""
    texts = [value] if isinstance(value, str) else value
    return tuple(item.strip().lower() for text in texts for item in str(text).split(",") if item.strip())


def _check_host_name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise ValueError("a host name without port and without *, such as relearn.internal or 10.0.0.5")
    return value


def _check_origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError("an exact origin without path and without *, such as https://app.example.org")
    return value


def _to_text(value: Any) -> str:
    """Return the value as a variable has it: nothing for None, a list with commas."""
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


HostNames = Annotated[
    tuple[Annotated[str, AfterValidator(_check_host_name)], ...], BeforeValidator(_split_list)
]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_split_list)]


def _to_absolute_path(value: Any) -> Any:
    """Return the path made absolute, since workers run in another working directory."""
    return Path(value).absolute() if value else None


def _parse_address(value: Any) -> str:
    """Parse an IP address; `localhost` is translated, because BentoML's server accepts IP addresses only."""
    try:
        return str(ipaddress.ip_address({"localhost": "127.0.0.1"}.get(value, value)))
    except ValueError:
        raise ValueError("localhost or an IP address, such as 127.0.0.1 or 0.0.0.0") from None


class ServeConfig(BaseModel):
    """Settings of one server: address, workers, request limits, prediction log."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: Annotated[str, BeforeValidator(_parse_address)] = Field(
        "127.0.0.1", description="Address to listen on; 127.0.0.1 is reachable from this machine only."
    )
    port: int = Field(3000, ge=0, le=65_535, description="Port to listen on; 0 chooses a free one.")
    workers: int = Field(1, ge=1, le=64, description="Worker processes; each loads the classifier.")
    max_body_bytes: int = Field(
        10_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Maximum request body in bytes.",
    )
    max_images: int = Field(256, ge=1, le=10_000, description="Maximum number of images per request.")
    max_concurrency: int = Field(
        32, ge=1, le=10_000, description="Maximum concurrent requests per worker; more are rejected with 429."
    )
    timeout_seconds: float = Field(
        30.0, gt=0, le=3_600, description="Seconds after which a request fails with 504."
    )
    api_keys_file: Annotated[Path | None, BeforeValidator(_to_absolute_path)] = Field(
        None, description="File with API keys, one per line; RELEARN_API_KEYS may hold keys too."
    )
    allow_host: HostNames = Field(
        (), description="Host names to accept besides localhost; with API keys, the default is any host."
    )
    allow_origin: Origins = Field(
        (), description="Origins whose pages may send requests (CORS); /feedback then needs an API key."
    )
    graceful_timeout_seconds: int = Field(
        10, ge=1, le=3_600, description="Seconds for accepted requests to finish when the server stops."
    )
    log_predictions: bool = Field(
        True, description="Log predictions, without their images, and accept feedback."
    )
    log_max_mb: int = Field(
        256,
        ge=10,
        le=1_000_000,
        description="Maximum size of the prediction log in MB; oldest entries go first.",
    )
    image_sample_rate: float = Field(
        0.0, ge=0, le=1, description="Fraction of requests whose images are logged too."
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], sources: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Build a config from plain values, strings included; raise one `ConfigError` with all problems.

        `sources` maps a setting to what has set it, such as an environment variable, for error messages.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(format_problems(error, cls.model_fields, sources)) from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from `environment`, such as `max_images` from `RELEARN_MAX_IMAGES`.

        A setting without a variable has its default, and so has one whose variable Kubernetes has set.
        """
        variables = {name: ENVIRONMENT_PREFIX + name.upper() for name in cls.model_fields}
        values = {
            name: value
            for name, key in variables.items()
            if (value := environment.get(key)) and not is_set_by_kubernetes(key, value)
        }
        return cls.parse(values, variables)

    def to_environment(self) -> dict[str, str]:
        """Return the variables that `from_environment` reads; they pass the settings to BentoML's workers."""
        return {
            ENVIRONMENT_PREFIX + name.upper(): _to_text(value) for name, value in self.model_dump().items()
        }

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the server."""
        return ipaddress.ip_address(self.host).is_loopback
