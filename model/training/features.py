"""Features of images: computed once by a frozen backbone, and kept in an SQLite database.

The key of an image is the hash of the backbone's weights, the shape and the pixels. A process that is killed
loses at most the images of one transaction. Every image passes the backbone alone, on one thread: its
features are then the same to the last bit, whatever is computed beside it and on however many cores.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from relearn.model import devices
from relearn.model.data.transforms import to_unit_float, view_as_tensor
from relearn.model.errors import InfrastructureError
from relearn.model.networks.efficientnet_lite import FEATURES
from relearn.model.networks.pretrained import Pretrained

FEATURES_FILE = "features.db"
IMAGES_AT_A_TIME = 32  # of a transaction; two cores compute them in less than a second
KEEP_DAYS = 30  # features that no training has used for so long are pruned
IMAGE_BYTES = 4 * FEATURES
SCHEMA = "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, day INTEGER, value BLOB)"
NO_DATABASE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def compute_features(
    network: Pretrained,
    weights_sha256: str,
    images: np.ndarray,
    file: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Return the features of `images`, uint8 (n, channels, height, width), as float32 (n, 1280).

    Those in the database `file` are read, the others computed and added. `on_progress` is called with the
    numbers of images that are done and of all.
    """
    features = np.empty((len(images), FEATURES), np.float32)
    device = network.head.weight.device
    with _open_database(file) as database:
        for start in range(0, len(images), IMAGES_AT_A_TIME):
            chunk = images[start : start + IMAGES_AT_A_TIME]
            keys = [_build_key(f"{weights_sha256[:32]} {device.type}", image) for image in chunk]
            cached = _read(database, keys)
            missing = [index for index, key in enumerate(keys) if key not in cached]
            computed = devices.map_on_cores(partial(_compute, network), chunk[missing])
            new = {keys[index]: values.tobytes() for index, values in zip(missing, computed, strict=True)}
            _write(database, new)
            cached |= new
            for index, key in enumerate(keys, start):
                features[index] = np.frombuffer(cached[key], np.float32)
            on_progress(start + len(chunk), len(images))
    return features


def count_unused(file: Path) -> int:
    """Return the number of images whose features no training has used for `KEEP_DAYS` days."""
    with _open_database(file) as database:
        (count,) = database.execute("SELECT count(*) FROM features WHERE day < ?", [_first_day()]).fetchone()
    return int(count)


def delete_unused(file: Path) -> bool:
    """Delete what `count_unused` counts, and return the space to the disk."""
    with _open_database(file) as database:
        with database:
            database.execute("DELETE FROM features WHERE day < ?", [_first_day()])
        database.execute("VACUUM")
    return True


@contextmanager
def _open_database(file: Path) -> Iterator[sqlite3.Connection]:
    """Open or create the database; a damaged one is replaced, since all of it can be computed again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = _connect(file)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in NO_DATABASE:
                raise
            file.unlink()
            database = _connect(file)
        with closing(database):
            yield database
    except (sqlite3.Error, OSError) as error:
        raise InfrastructureError(
            f"cannot keep features of images in {file}: {error}; a damaged file may be deleted"
        ) from None


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=60)
    try:
        database.execute(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _compute(network: Pretrained, image: np.ndarray) -> np.ndarray:
    device = network.head.weight.device
    with torch.inference_mode():
        inputs = to_unit_float(view_as_tensor(np.ascontiguousarray(image[None])).to(device))
        return network.extract_features(inputs)[0].float().cpu().numpy()


def _build_key(computation: str, image: np.ndarray) -> bytes:
    """Return the key of an image's features; `computation` names the weights and the device."""
    context = f"{computation} {image.shape}".encode()
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16, key=context).digest()


def _read(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    marks, today = ", ".join("?" * len(keys)), _today()
    rows = database.execute(f"SELECT key, day, value FROM features WHERE key IN ({marks})", keys).fetchall()  # noqa: S608
    with database:
        used = [(today, key) for key, day, _ in rows if day != today]
        database.executemany("UPDATE features SET day = ? WHERE key = ?", used)
    return {key: value for key, _, value in rows if len(value) == IMAGE_BYTES}


def _write(database: sqlite3.Connection, features: dict[bytes, bytes]) -> None:
    rows = [(key, _today(), value) for key, value in features.items()]
    with database:
        database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)


def _today() -> int:
    return int(time.time() // 86_400)


def _first_day() -> int:
    return _today() - KEEP_DAYS
