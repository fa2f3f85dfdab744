"""docker-compose.yml, its images and scripts, as far as they can be judged where no engine runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = ("migrate", "register")  # they end
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()

each_service = pytest.mark.parametrize("name", SERVICES)


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@each_service
def test_a_service_can_do_no_more_than_it_needs(name: str):
    """No capability, no new one, a root that it cannot write to, and a limit of memory and processes."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert "privileged" not in service


@each_service
def test_a_service_tells_whether_it_is_well(name: str):
    """By a check of its own; one that ends tells it by its exit code."""
    service = SERVICES[name]
    assert (name in ONCE) != ("healthcheck" in service)
    assert service["restart"] == ("on-failure:5" if name in ONCE else "unless-stopped")


@each_service
def test_a_service_waits_for_what_it_needs(name: str):
    """For others being well, or done, never for time to pass."""
    for other, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert wanted == how["condition"]
    assert "sleep" not in str(SERVICES[name].get("command", ""))


@each_service
def test_an_image_is_ours_or_one_of_a_version(name: str):
    """Not whatever is newest on the day; ours is never looked for at a registry."""
    image, pulled = SERVICES[name]["image"], SERVICES[name].get("pull_policy")
    ours = image in ("relearn-api", "relearn-flows")
    assert ours == (pulled == "never")
    assert ours or re.search(r":v?\d+\.\d+", image)


@each_service
def test_a_temporary_folder_hides_nothing_of_the_image(name: str):
    """Docker's begin empty: PostgreSQL does not start where /run is one, with a folder for its socket."""
    folders = {folder.partition(":")[0] for folder in SERVICES[name]["tmpfs"]}
    assert {"/tmp"} == folders - {"/run/postgresql"}


def test_base_images_are_of_a_version():
    """All stages begin with the same one, or with another stage."""
    bases = re.findall(r"^FROM (\S+)(?: AS (\S+))?", DOCKERFILE, re.M)
    stages = {stage for _, stage in bases}
    assert {base for base, _ in bases} - stages == {"python:3.11.14-slim-bookworm"}


def test_only_the_api_and_pages_are_published():
    """On this machine alone; only the API, which wants keys, is elsewhere where .env says so."""
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    (api,) = published.pop("api")
    assert api.startswith("${PUBLISH:-127.0.0.1}:")
    assert {"mlflow", "prefect", "prometheus", "grafana"} == set(published)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_what_answers_strangers_reaches_no_database():
    """The API and the servers behind the pages meet in no network, only in volumes."""
    assert {"outside"} == set(SERVICES["api"]["networks"])
    assert all("outside" not in SERVICES[name]["networks"] for name in ("postgres", "mlflow", "prefect"))


def test_the_api_changes_no_release():
    """It reads the home; what it writes are records, and what it tells of itself."""
    volumes = [volume.split(":") for volume in SERVICES["api"]["volumes"]]
    assert {"home"} == {source for source, _, *how in volumes if how == ["ro"]}
    assert {"predictions", "servers"} == {source for source, _, *how in volumes if not how}


def test_no_secret_stands_in_a_setting():
    """Passwords and keys are files, and in settings only their names."""
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|SECRET|TOKEN", key):
                assert str(value).startswith("/run/secrets/")
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value))


def test_every_setting_is_in_the_example():
    """With the same default wherever it is asked for, and none of them is a secret."""
    found = set(re.findall(r"\$\{(\w+)(?::?[-?])([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))
    asked = dict(found)
    assert len(found) == len(asked)
    lines = (ROOT / ".env.example").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert asked.pop("RELEARN_SECRETS").startswith("run infra/secrets.sh")
    assert "./secrets" == told.pop("RELEARN_SECRETS")
    assert asked == told


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The scripts and the example, where a user has cloned them."""
    clone = tmp_path / "a clone"
    (clone / "infra").mkdir(parents=True)
    for name in ("infra/secrets.sh", ".env.example"):
        shutil.copy(ROOT / name, clone / name)
    for name in ("infra/monitoring", "infra/postgres"):
        shutil.copytree(ROOT / name, clone / name)
    return clone


def test_secrets_are_made_once(copy: Path):
    """Each is another one, nobody else may look, and what is there is kept; nothing of them is printed."""
    script = copy / "infra" / "secrets.sh"
    said = [run(script), run(script)]
    assert [0, 0] == [one.returncode for one in said]
    folder = copy / "secrets"
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(COMPOSE["secrets"]) <= set(made)
    assert 0o700 == folder.stat().st_mode & 0o777
    single = {name: text for name, text in made.items() if name != "api_keys"}
    assert len(single) == len(set(single.values()))
    assert all(re.fullmatch("[A-Za-z0-9]{32}", text) for text in single.values())
    keys = [line for line in made["api_keys"].splitlines() if not line.startswith("#")]
    assert [made["metrics_key"], made["client_key"]] == keys
    assert not any(text in one.stdout + one.stderr for text in single.values() for one in said)
    assert (copy / ".env").read_text() == (copy / ".env.example").read_text()


def test_what_containers_read_they_may_read(copy: Path):
    """Also where everything that is cloned is its owner's alone."""
    read = [path for name in ("monitoring", "postgres") for path in (copy / "infra" / name).rglob("*")]
    for path in read:
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert 0 == run(copy / "infra" / "secrets.sh").returncode
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in read)
    assert all(path.stat().st_mode & 0o055 == 0o055 for path in read if path.is_dir())


def test_a_key_is_replaced_while_the_old_one_is_good(copy: Path):
    """Clients change to the new one when they can; no other key changes."""
    script, keys = copy / "infra" / "secrets.sh", copy / "secrets" / "api_keys"
    run(script)
    before = keys.read_text().split("\n")
    (copy / "secrets" / "client_key").unlink()
    assert 0 == run(script).returncode
    new = (copy / "secrets" / "client_key").read_text()
    assert new not in before
    assert {*before, new} == set(keys.read_text().split("\n"))


def test_a_key_is_added_on_a_line_of_its_own(copy: Path):
    """Also where somebody's editor has left the last line without an end."""
    script, keys = copy / "infra" / "secrets.sh", copy / "secrets" / "api_keys"
    run(script)
    before = keys.read_text()
    keys.chmod(0o600)
    keys.write_text(before.rstrip("\n"))
    (copy / "secrets" / "client_key").unlink()
    assert 0 == run(script).returncode
    assert before + (copy / "secrets" / "client_key").read_text() + "\n" == keys.read_text()


@pytest.mark.parametrize("words", ["inspect", "entrypoint id", "entrypoint find", "entrypoint sh"])
def test_images_that_cannot_be_looked_into_are_not_called_good(words: str, copy: Path):
    """The engine does not know them, or does not run them."""
    shutil.copy(ROOT / "infra" / "check_images.sh", copy / "infra" / "check_images.sh")
    run(copy / "infra" / "secrets.sh")
    engine = copy / "engine"
    engine.write_text(f'#!/bin/sh\ncase "$*" in *"{words}"*) exit 125;; *find*) ;; *) echo 1;; esac\n')
    engine.chmod(0o755)
    done = run(copy / "infra" / "check_images.sh", "image=1", env={**os.environ, "ENGINE": str(engine)})
    assert 125 == done.returncode


def test_settings_that_name_no_secrets_are_told(copy: Path):
    """An .env of somebody's own is kept, and what it lacks is said."""
    (copy / ".env").write_text("WORKERS=2\n")
    done = run(copy / "infra" / "secrets.sh")
    assert 2 == done.returncode
    assert [".env does not name RELEARN_SECRETS; .env.example does"] == done.stderr.splitlines()
    assert "WORKERS=2\n" == (copy / ".env").read_text()


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_without_a_password_nothing_starts(content: str | None, tmp_path: Path):
    """One line says what is missing and who makes it; exit code 3."""
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    done = run(ROOT / "infra" / "with_password.sh", file, "echo", "started")
    assert 3 == done.returncode
    assert "" == done.stdout
    assert [f"{file} holds no password: infra/secrets.sh makes one"] == done.stderr.splitlines()


def test_a_password_is_in_no_command_line(tmp_path: Path):
    """The program finds it in its environment, where PostgreSQL's clients look for it."""
    file = tmp_path / "password"
    file.write_text("of the database\n")
    asked = "import os, sys; print(os.environ['PGPASSWORD'], sys.argv)"
    done = run(ROOT / "infra" / "with_password.sh", file, sys.executable, "-c", asked, "word")
    assert "of the database ['-c', 'word']\n" == done.stdout


@pytest.mark.parametrize(
    ("packages", "wanted", "refused"),
    [
        (["nvidia-ml-py"], ["sympy"], False),
        ([], ["opt-einsum ; extra == 'opt-einsum'"], False),
        ([], ["cuda-toolkit==13.0 ; platform_system == 'Linux'"], True),
        ([], ["triton==3.7.1"], True),
        (["nvidia-cublas"], [], True),
    ],
)
def test_a_cpu_image_takes_no_cuda(packages: list[str], wanted: list[str], refused: bool, tmp_path: Path):
    """Its build ends with one line where CUDA came, or torch wants it: which, and how to do without."""
    for package, needs in [("torch", wanted), *((package, []) for package in packages)]:
        folder = tmp_path / f"{package.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        lines = [f"Name: {package}", "Version: 1", *(f"Requires-Dist: {one}" for one in needs)]
        (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    script = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if 'site-packages' not in p)]"
    )
    code = f"{script}; exec(open({str(ROOT / 'infra' / 'no_cuda.py')!r}).read())"
    done = run(sys.executable, "-c", code)
    assert refused == (done.returncode != 0)
    assert refused == ("TORCH_INDEX" in done.stderr)
    assert len(done.stderr.splitlines()) <= 1


def test_images_are_made_of_the_code_alone():
    """Nothing is sent to a build but what is named, and no secret, no data and no history is."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert {
        "relearn",
        "flows",
        "model",
        "serving",
        "infra",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
    } == sent


def test_secrets_are_never_committed():
    """Nor are the settings of one installation."""
    assert {"/secrets/", "/.env"} <= set((ROOT / ".gitignore").read_text().splitlines())
