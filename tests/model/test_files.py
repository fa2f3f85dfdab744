from pathlib import Path

import pytest

from relearn.model.files import atomic_folder, write_bytes_atomically


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    """A folder whose making fails is as it was, and nothing temporary stays beside it."""
    target = tmp_path / "release"
    with atomic_folder(target) as new:
        (new / "a").write_text("old")

    def fail_halfway() -> None:
        with atomic_folder(target) as new:
            (new / "a").write_text("new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail_halfway()
    assert "old" == (target / "a").read_text()
    assert [target] == list(tmp_path.iterdir())


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    """A second write leaves nothing of the first."""
    target = tmp_path / "release"
    for name in ("a", "b"):
        with atomic_folder(target) as new:
            (new / name).write_text(name)
    assert ["b"] == [path.name for path in target.iterdir()]


def test_bytes_are_replaced_whole(tmp_path: Path) -> None:
    """A file is its new content and nothing else; folders on the way are made."""
    path = tmp_path / "deep" / "current.json"
    write_bytes_atomically(path, b"a longer first content")
    write_bytes_atomically(path, b"second")
    assert b"second" == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    """Files and folders get the rights that any other new file of this user has."""
    (tmp_path / "plain").touch()
    write_bytes_atomically(tmp_path / "file", b"")
    with atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "plain folder").mkdir()
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "file").stat().st_mode
    assert (tmp_path / "plain folder").stat().st_mode == (tmp_path / "folder").stat().st_mode
