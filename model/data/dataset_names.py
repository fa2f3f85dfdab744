"""Names of custom datasets: two sources in one home never share a name."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path

from filelock import FileLock

from relearn.model.data.builtin import DATASETS
from relearn.model.errors import DataError
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

NAMES_FILE = "names.json"  # in the folder of prepared datasets: the source of each name
MAX_NAME_LENGTH = 50


def find_dataset_name(uri: str, path: Path, home: Home) -> str:
    """Return the name of the source `uri`, which its `path` gives; a taken name gets a number."""
    names = _read_names(home)
    if uri in names.values():
        return next(name for name, owner in names.items() if owner == uri)
    base = derive_dataset_name(uri.partition(":")[0], path)
    candidates = (base, *(f"{base}-{number}" for number in range(2, len(names) + 3)))
    return next(name for name in candidates if name not in names)


def register_dataset_name(uri: str, name: str, home: Home) -> None:
    """Keep `name` for the source `uri`; raise DataError if another source took it a moment ago."""
    with FileLock(home.dataset_cache / f".{NAMES_FILE}.lock"):
        names = _read_names(home)
        if names.setdefault(name, uri) != uri:
            raise DataError(f"{uri}: the name {name!r} was taken by {names[name]}, try again")
        content = json.dumps(names, ensure_ascii=False, indent=2).encode(errors="replace")
        write_bytes_atomically(home.dataset_cache / NAMES_FILE, content)


def derive_dataset_name(kind: str, path: Path) -> str:
    """Derive a name from `path`; the names of DATASETS get the kind as a suffix."""
    stem = re.sub(r"(\.csv|\.tsv|\.tar)$", "", path.stem.lower())
    latin = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", latin).strip("-")[:MAX_NAME_LENGTH].strip("-")
    name = name or f"data-{hashlib.sha256(stem.encode(errors='replace')).hexdigest()[:6]}"
    return f"{name}-{kind}" if name in DATASETS else name


def _read_names(home: Home) -> dict[str, str]:
    try:
        names = json.loads((home.dataset_cache / NAMES_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(uri) for name, uri in names.items()} if isinstance(names, dict) else {}
