"""`up.json`, the file in which `relearn up` writes its process and service URLs for other commands."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.model.process_identity import find_process, identify_process, read_pid

FILENAME = "up.json"


class LocalStack(BaseModel, frozen=True):
    """The process of a `relearn up`, by its identity, and the URL of each service by name.

    `home` is its home: in a copy of that the file is there too, and means nothing.
    """

    home: Path
    process: str
    service_urls: dict[str, str]

    @classmethod
    def read(cls, home: Home) -> Self | None:
        """Return the stack of `home`; None if no `relearn up` runs for it on this machine."""
        try:
            stack = cls.model_validate_json((home.root / "up" / FILENAME).read_bytes())
        except (OSError, ValidationError):
            return None
        is_current = stack.home == home.root.resolve()
        return stack if is_current and find_process(stack.process) == "alive" else None

    @classmethod
    def write(cls, home: Home, service_urls: dict[str, str]) -> None:
        """Write `up.json` in the home: this process and its service URLs, for other commands to find."""
        stack = cls(home=home.root.resolve(), process=identify_process(), service_urls=service_urls)
        write_bytes_atomically(home.root / "up" / FILENAME, stack.model_dump_json(indent=2).encode() + b"\n")

    @staticmethod
    def clear(home: Home) -> None:
        (home.root / "up" / FILENAME).unlink(missing_ok=True)

    @property
    def process_id(self) -> str:
        return read_pid(self.process)
