"""`up.json`, the file in which `relearn up` writes its process and service URLs for other commands."""

from typing import Self

from pydantic import BaseModel, ValidationError

from relearn.flows import process_identity
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

FILENAME = "up.json"


class LocalStack(BaseModel, frozen=True):
    """The process of a `relearn up`, as tags of `process_identity`, and the URL of each service by name."""

    process_tags: dict[str, str]
    service_urls: dict[str, str]

    @classmethod
    def read(cls, home: Home) -> Self | None:
        """Return the stack of `home`; None if no `relearn up` runs for it on this machine."""
        try:
            stack = cls.model_validate_json((home.root / "up" / FILENAME).read_bytes())
        except (OSError, ValidationError):
            return None
        return None if process_identity.is_process_dead(stack.process_tags) else stack

    @classmethod
    def write(cls, home: Home, service_urls: dict[str, str]) -> None:
        """Write `up.json` in the home: this process and its service URLs, for other commands to find."""
        stack = cls(process_tags=process_identity.process_tags(), service_urls=service_urls)
        write_bytes_atomically(home.root / "up" / FILENAME, stack.model_dump_json(indent=2).encode() + b"\n")

    @staticmethod
    def clear(home: Home) -> None:
        (home.root / "up" / FILENAME).unlink(missing_ok=True)

    @property
    def process_id(self) -> str:
        return self.process_tags[process_identity.PROCESS_TAG].partition("@")[0]
