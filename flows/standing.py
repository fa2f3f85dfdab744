"""What `relearn up` keeps alive for a home, and where: it leaves word, for the verbs that ask."""

from typing import Self

from pydantic import BaseModel, ValidationError

from relearn.flows import owner
from relearn.model import atomic
from relearn.model.home import Home

FILE = "up.json"


class Standing(BaseModel, frozen=True):
    """The process of `relearn up`, by the tags of `owner`, and the address of each part."""

    owner: dict[str, str]
    parts: dict[str, str]

    @classmethod
    def read(cls, home: Home) -> Self | None:
        """None where no `relearn up` runs for `home` on this machine."""
        try:
            standing = cls.model_validate_json((home.root / "up" / FILE).read_bytes())
        except (OSError, ValidationError):
            return None
        return None if owner.lost(standing.owner) else standing

    @classmethod
    def leave(cls, home: Home, parts: dict[str, str]) -> None:
        """Say that this process keeps `parts` alive."""
        standing = cls(owner=owner.tags(), parts=parts)
        atomic.write_bytes(home.root / "up" / FILE, standing.model_dump_json(indent=2).encode() + b"\n")

    @staticmethod
    def end(home: Home) -> None:
        (home.root / "up" / FILE).unlink(missing_ok=True)

    @property
    def process(self) -> str:
        return self.owner[owner.PROCESS].partition("@")[0]
