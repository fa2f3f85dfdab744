"""`relearn home backup` and `restore`: a home in use is copied completely, and made again at any place."""

import io
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.backup import MANIFEST_FILE, back_up
from relearn.flows.ops.restore import restore
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.errors import CorruptDataError
from relearn.model.home import Home
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.zoo import Zoo

Capture = pytest.CaptureFixture[str]
RELEARN = str(Path(sys.executable).with_name("relearn"))


def make_home(root: Path) -> Home:
    """Make a small home: a database, a release without classifier, a prediction log, and what is left out."""
    files = {
        "releases/zoo/1/card.json": b"{}",
        "releases/zoo/1/weights.safetensors": bytes(5_000),
        "releases/zoo/.2.0123456789ab.tmp/card.json": b"half",
        "releases/zoo/.lock": b"",
        "predictions/zoo/predictions-1-1.jsonl": b'{"label": "ant"}\n' * 100,
        "feedback/zoo/decisions.jsonl": "Bär\n".encode(),
        "artifacts/a run/artifacts/weiß \N{SNOWMAN}.txt": b"seen",
        **dict.fromkeys(
            ("data/x", "datasets/x", "up/up.json", "servers/1/server.json", "prefect/ui/x"), b"x"
        ),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "predictions").chmod(0o700)
    (root / "predictions/zoo/predictions-1-1.jsonl").chmod(0o600)
    with closing(sqlite3.connect(root / "prefect/prefect.db")) as database, database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table runs (name text)")
        database.execute("insert into runs values ('late')")
        database.commit()
        shutil.copy(root / "prefect/prefect.db-wal", root / "kept-wal")  # the last connection deletes it
    (root / "kept-wal").rename(root / "prefect/prefect.db-wal")
    return Home(root, root / "data")


def read_tree(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and mode of each file by its name."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in files
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a small home."""
    folder = tmp_path_factory.mktemp("small")
    back_up(make_home(folder / "home"), folder / "home.tar")
    return folder / "home.tar"


def test_backup_holds_all_that_cannot_be_made_again(small: Path, tmp_path: Path) -> None:
    """Content and modes are the same; caches, locks, halves of files and states of processes are left out."""
    manifest = restore(Home(tmp_path / "deep" / "home", tmp_path), small)
    before, after = read_tree(small.parent / "home"), read_tree(tmp_path / "deep" / "home")
    left_out = {name for name in before if name.endswith((".lock", ".db-wal", ".db-shm"))}
    left_out |= {name for name in before if name.split("/")[0] in ("data", "datasets", "up", "servers")}
    left_out |= {name for name in before if ".tmp/" in name or "/ui/" in name}
    assert set(after) == set(manifest.sha256) == set(before) - left_out
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"prefect/prefect.db"}
    assert 0o700 == stat.S_IMODE((tmp_path / "deep/home/predictions").stat().st_mode)
    with closing(sqlite3.connect(tmp_path / "deep/home/prefect/prefect.db")) as database:
        assert [("late",)] == database.execute("select * from runs").fetchall()
    assert 0o600 == stat.S_IMODE(small.stat().st_mode)


def test_lost_home_is_restored_elsewhere(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Ledger, served digest, runs and aliases are those of the lost home; a new run is stored there."""
    zoo.promote("1")
    live = zoo.promote("2").live
    sync_with_ledger(zoo.home, "zoo")
    entries = zoo.releases.ledger.read_entries()
    assert 0 == run_command_line(["home", "backup", str(tmp_path / "disk 2" / "zoo.tar")])
    assert f" are in {tmp_path}/disk 2/zoo.tar\n" in capsys.readouterr().out
    zoo.home.root.rename(tmp_path / "lost")

    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "another place" / "home"))
    assert 0 == run_command_line(["home", "restore", str(tmp_path / "disk 2" / "zoo.tar")])
    assert f" files of {zoo.home.root} as of 2" in capsys.readouterr().out
    home = Home.from_environment()
    releases = ReleaseStore(home.releases_dir("zoo"))
    assert entries == releases.ledger.read_entries()
    assert live is not None
    assert "2" == load_release(releases, live).version
    assert [] == sync_with_ledger(home, "zoo")
    for run_id in registry.list_versions(connect(home), "zoo").values():
        registry.download_classifier(connect(home), run_id, tmp_path / "fetched" / run_id)
    with Experiment.open_or_create(home, "zoo").start_run("animal 4", {}) as run:
        run.log_text("heard", "notes.txt")
    assert not zoo.home.root.exists()


def test_home_in_use_is_copied_consistently(zoo: Zoo, tmp_path: Path) -> None:
    """While versions go live and runs end, each copy has the files of all that its ledger and runs name."""
    stopped, experiment = threading.Event(), Experiment.open_or_create(zoo.home, "zoo")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(1000):
                if stopped.is_set():
                    return
                version = str(4 + number)
                zoo.folders[version] = zoo.folders["1"]
                zoo.promote(version)
                with experiment.start_run(f"animal {version}", {}) as run:
                    pass
                artifact = Path(run.client.get_run(run.id).info.artifact_uri.removeprefix("file://")) / "x"
                artifact.parent.mkdir(parents=True)
                artifact.write_bytes(b"x")
                run.set_tags({"written": "yes"})
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    for number in range(4):
        back_up(zoo.home, tmp_path / f"{number}.tar")
    stopped.set()
    worker.join()
    assert [] == failures
    for number in range(4):
        home = Home(tmp_path / str(number), tmp_path)
        restore(home, tmp_path / f"{number}.tar")
        releases = ReleaseStore(home.releases_dir("zoo"))
        for entry in releases.ledger.read_entries():
            assert entry.live is not None
            assert entry.live.version == load_release(releases, entry.live).version
        client = connect(home)
        for run in client.search_runs(["1"], "tags.written = 'yes'"):
            assert (home.artifacts / run.info.run_id / "artifacts" / "x").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("zoo.zip", "file: got 'zoo.zip', accepted: a name that ends in .tar"),
        ("old.tar", "old.tar exists already, accepted: a new file"),
        ("link.tar", "link.tar exists already, accepted: a new file"),
        ("home/zoo.tar", "accepted: a place outside of the home"),
    ],
)
def test_unusable_file_of_a_backup_is_one_line(
    file: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """No file is replaced or left."""
    make_home(tmp_path / "home")
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    (tmp_path / "old.tar").write_bytes(b"precious")
    (tmp_path / "link.tar").symlink_to("nowhere")
    before = read_tree(tmp_path)
    assert 2 == run_command_line(["home", "backup", str(tmp_path / file)])
    errors = capsys.readouterr().err
    assert (1, True) == (len(errors.splitlines()), message in errors)
    assert before == {name: file for name, file in read_tree(tmp_path).items() if ".prune.lock" not in name}


def damage_database(home: Home) -> None:
    (home.root / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(5_000))


def damage_ledger(home: Home) -> None:
    (home.releases_dir("zoo") / "ledger").mkdir()
    (home.releases_dir("zoo") / "ledger" / "000002.json").write_bytes(b"{}")


def break_link(home: Home) -> None:
    home.artifacts.rename(home.root.parent / "moved")
    home.artifacts.symlink_to("unplugged")


def link_in_a_circle(home: Home) -> None:
    (home.artifacts / "above").symlink_to(home.root.parent)


@pytest.mark.parametrize(
    ("fault", "exit_code", "message"),
    [
        (damage_database, 4, "mlflow.db is damaged, so it cannot be copied: "),
        (damage_ledger, 4, "000001.json is missing: an entry was lost"),
        (break_link, 3, "artifacts is a link to unplugged, which does not exist"),
        (link_in_a_circle, 3, "above is a link to a folder or file of the home"),
    ],
)
def test_incomplete_home_is_no_backup(
    fault: Callable[[Home], None],
    exit_code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """A backup that could not be restored is not made: one line, and no file."""
    fault(make_home(tmp_path / "home"))
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert exit_code == run_command_line(["home", "backup", str(tmp_path / "zoo.tar")])
    errors = capsys.readouterr().err
    assert (1, True) == (len(errors.splitlines()), message in errors)
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".*"))


def test_linked_folder_is_copied(tmp_path: Path) -> None:
    """Artifacts that lie on another disk, behind a link, are files of the restored home."""
    home = make_home(tmp_path / "home")
    home.artifacts.rename(tmp_path / "disk 2")
    home.artifacts.symlink_to(tmp_path / "disk 2")
    back_up(home, tmp_path / "home.tar")
    restored = Home(tmp_path / "restored", tmp_path)
    restore(restored, tmp_path / "home.tar")
    assert read_tree(tmp_path / "disk 2") == read_tree(restored.artifacts)
    assert not restored.artifacts.is_symlink()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_backup_is_restored_completely_or_not_at_all(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Cut off or changed in any byte: either all files are right, or no home is made."""
    content = bytearray(small.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1), "position")
    if data.draw(st.booleans(), "cut off"):
        del content[position:]
    else:
        content[position] ^= data.draw(st.integers(1, 255), "change")
    file, home = tmp_path / "damaged.tar", Home(tmp_path / "home", tmp_path)
    file.write_bytes(content)
    try:
        manifest = restore(home, file)
    except CorruptDataError:
        assert ["damaged.tar"] == [path.name for path in tmp_path.iterdir()]
    else:
        digests = {name: files for name, (files, _) in read_tree(home.root).items()}
        intact = Home(tmp_path / "intact", tmp_path)
        assert manifest.sha256 == restore(intact, small).sha256
        assert digests == {name: files for name, (files, _) in read_tree(intact.root).items()}
        shutil.rmtree(home.root)
        shutil.rmtree(intact.root)


def make_member(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


@pytest.mark.parametrize(
    "member",
    [
        make_member("../outside", size=1),
        make_member("a/../../outside", size=1),
        make_member("/tmp/relearn-outside", size=1),
        make_member("./a", size=1),
        make_member("a//b", size=1),
        make_member("..", type=tarfile.DIRTYPE),
        make_member("link", type=tarfile.SYMTYPE, linkname="/etc"),
        make_member("link", type=tarfile.LNKTYPE, linkname="mlflow.db"),
        make_member("pipe", type=tarfile.FIFOTYPE),
        make_member("disk", type=tarfile.BLKTYPE),
        make_member("releases", size=1),
        make_member("releases/zoo/1/card.json", size=1),
        make_member("releases/zoo/1/card.json/x", size=1),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()}",
)
def test_foreign_member_is_refused(
    member: tarfile.TarInfo, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Names that lead elsewhere, links, devices, and a second file of the same name."""
    with tarfile.open(small) as source, tarfile.open(tmp_path / "more.tar", "w") as target:
        for original in source:
            if original.name == MANIFEST_FILE:
                target.addfile(member, io.BytesIO(b"x"))
            target.addfile(original, source.extractfile(original))
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 4 == run_command_line(["home", "restore", str(tmp_path / "more.tar")])
    errors = capsys.readouterr().err
    assert 1 == len(errors.splitlines())
    assert f"{tmp_path}/more.tar is no complete backup: " in errors
    assert ["more.tar"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("content", "exit_code", "message"),
    [
        (None, 2, "which is no file; accepted: one of relearn home backup"),
        (b"", 4, "is no complete backup: "),
        (b"no tar" * 1000, 4, "is no complete backup: "),
        (bytes(10_240), 4, "is no complete backup: its end is missing"),
    ],
)
def test_other_file_is_no_backup(
    content: bytes | None,
    exit_code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """A missing, empty or foreign file is one line; no home is made."""
    if content is not None:
        (tmp_path / "x.tar").write_bytes(content)
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert exit_code == run_command_line(["home", "restore", str(tmp_path / "x.tar")])
    errors = capsys.readouterr().err
    assert (1, True) == (len(errors.splitlines()), message in errors)
    assert not (tmp_path / "home").exists()


def test_existing_home_is_never_replaced(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A folder with anything in it is refused, an empty one is filled."""
    root = tmp_path / "home"
    root.mkdir()
    monkeypatch.setenv("RELEARN_HOME", str(root))
    (root / "mine").write_bytes(b"precious")
    assert 2 == run_command_line(["home", "restore", str(small)])
    assert "which is not empty; accepted: a new or an empty folder" in capsys.readouterr().err
    assert {"mine"} == set(read_tree(root))
    (root / "mine").unlink()
    assert 0 == run_command_line(["home", "restore", str(small)])
    assert "releases/zoo/1/card.json" in read_tree(root)


def test_stores_outside_of_the_home_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A backup of the home cannot hold them; passwords are not printed."""
    make_home(tmp_path / "home")
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentos"))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    assert 0 == run_command_line(["home", "backup", str(tmp_path / "home.tar")])
    output = " ".join(capsys.readouterr().out.split())
    assert "outside of the home: postgresql://me:…@db/mlflow" in output
    assert f"outside of the home: {tmp_path}/bentos" in output


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["backup", "restore"])
@pytest.mark.parametrize("milliseconds", [0, 20, 60, 150, 400])
def test_killed_command_leaves_nothing_or_all(
    verb: str, milliseconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one succeeds; what a killed one left there is deleted after a day."""
    home, file = make_home(tmp_path / "home"), tmp_path / "home.tar"
    for number in range(60):
        (home.artifacts / f"{number}").write_bytes(os.urandom(2_000_000))
    if verb == "restore":
        back_up(home, file)
        monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "restored"))
    target = file if verb == "backup" else tmp_path / "restored"
    with subprocess.Popen([RELEARN, "home", verb, str(file)], stdout=subprocess.PIPE) as process:
        while process.poll() is None and not list(tmp_path.glob(".*.tmp")):
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        process.kill()
    if not target.exists():
        assert 0 == run_command_line(["home", verb, str(file)])
    restored = Home(tmp_path / "restored", tmp_path)
    if verb == "backup":
        restore(restored, file)
    assert read_tree(home.artifacts) == read_tree(restored.artifacts)
