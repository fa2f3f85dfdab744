"""Atomic writes of files and folders; CSV."""

import errno
import os
import stat
from pathlib import Path

import pandas as pd
import pytest

from relearn.model.files import atomic_folder, to_csv, write_bytes_atomically


def test_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    """An exception leaves the folder unchanged, and no temporary folder next to it."""
    target = tmp_path / "release"
    with atomic_folder(target) as temp_folder:
        (temp_folder / "a").write_text("old")

    def fail_halfway() -> None:
        with atomic_folder(target) as temp_folder:
            (temp_folder / "a").write_text("new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail_halfway()
    assert "old" == (target / "a").read_text()
    assert [target] == list(tmp_path.iterdir())


def test_folder_is_replaced_completely(tmp_path: Path) -> None:
    """A second write keeps no file of the first."""
    target = tmp_path / "release"
    for name in ("a", "b"):
        with atomic_folder(target) as temp_folder:
            (temp_folder / name).write_text(name)
    assert ["b"] == [path.name for path in target.iterdir()]


def test_file_is_replaced_completely(tmp_path: Path) -> None:
    """The file has the new content only; missing parent folders are created."""
    path = tmp_path / "deep" / "current.json"
    write_bytes_atomically(path, b"a longer first content")
    write_bytes_atomically(path, b"second")
    assert b"second" == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    """Files and folders get the same permissions as ordinary new ones."""
    (tmp_path / "ordinary file").touch()
    write_bytes_atomically(tmp_path / "file", b"")
    with atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "ordinary folder").mkdir()
    assert (tmp_path / "ordinary file").stat().st_mode == (tmp_path / "file").stat().st_mode
    assert (tmp_path / "ordinary folder").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_folder_that_cannot_be_synced_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems sync files only."""

    def sync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync_files_only)
    write_bytes_atomically(tmp_path / "file", b"content")
    assert b"content" == (tmp_path / "file").read_bytes()


def test_class_names_are_no_formulas_in_a_csv() -> None:
    """A spreadsheet would compute them; a number below zero stays a number."""
    lines = to_csv(pd.DataFrame({"class": ["=1+1", "@a", "[x]*"], "n": [-1, 2, 3]})).splitlines()
    assert ["class,n", "'=1+1,-1", "'@a,2", "[x]*,3"] == lines
