"""Promises of docker-compose.yml, its images and scripts that can be tested without a container engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT_SERVICES = ("migrate", "register")  # they exit when they are done
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()

each_service = pytest.mark.parametrize("name", SERVICES)


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@each_service
def test_service_has_least_privilege(name: str):
    """No capabilities, no new privileges, a read-only root, and limits for memory and processes."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert "privileged" not in service


@each_service
def test_service_has_a_health_check(name: str):
    """One-shot services report success by their exit code instead."""
    service = SERVICES[name]
    assert (name in ONE_SHOT_SERVICES) != ("healthcheck" in service)
    assert service["restart"] == ("on-failure:5" if name in ONE_SHOT_SERVICES else "unless-stopped")


@each_service
def test_service_waits_for_healthy_dependencies(name: str):
    """It waits until they are healthy or completed, never for a fixed time."""
    for dependency, options in SERVICES[name].get("depends_on", {}).items():
        is_one_shot = dependency in ONE_SHOT_SERVICES
        condition = "service_completed_successfully" if is_one_shot else "service_healthy"
        assert condition == options["condition"]
    assert "sleep" not in str(SERVICES[name].get("command", ""))


@each_service
def test_image_is_ours_or_pinned(name: str):
    """Our images are never pulled; others have a version."""
    image, pull_policy = SERVICES[name]["image"], SERVICES[name].get("pull_policy")
    is_ours = image in ("relearn-api", "relearn-flows")
    assert is_ours == (pull_policy == "never")
    assert is_ours or re.search(r":v?\d+\.\d+", image)


@each_service
def test_tmpfs_hides_no_folder_of_the_image(name: str):
    """A tmpfs starts empty: over /run it would hide the folder of PostgreSQL's socket."""
    folders = {folder.partition(":")[0] for folder in SERVICES[name]["tmpfs"]}
    assert {"/tmp"} == folders - {"/run/postgresql"}


def test_base_image_is_pinned():
    """All stages start from the same image, or from another stage."""
    bases = re.findall(r"^FROM (\S+)(?: AS (\S+))?", DOCKERFILE, re.M)
    stages = {stage for _, stage in bases}
    assert {base for base, _ in bases} - stages == {"python:3.11.14-slim-bookworm"}


def test_only_the_api_and_web_uis_publish_ports():
    """Ports are bound to 127.0.0.1; only the API, which requires keys, can be published elsewhere in .env."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    (api,) = published.pop("api")
    assert api.startswith("${PUBLISH:-127.0.0.1}:")
    assert {"mlflow", "prefect", "prometheus", "grafana"} == set(published)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_public_api_has_no_route_to_a_database():
    """The API shares no network with PostgreSQL, MLflow and Prefect, only volumes with the worker."""
    assert {"outside"} == set(SERVICES["api"]["networks"])
    assert all("outside" not in SERVICES[name]["networks"] for name in ("postgres", "mlflow", "prefect"))


def test_api_cannot_change_releases():
    """The home is read-only; the API writes only the prediction log and its server files."""
    volumes = [volume.split(":") for volume in SERVICES["api"]["volumes"]]
    assert {"home"} == {source for source, _, *mode in volumes if mode == ["ro"]}
    assert {"predictions", "servers"} == {source for source, _, *mode in volumes if not mode}


def test_environment_contains_no_secret():
    """Passwords and keys are files; settings contain only their paths."""
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|SECRET|TOKEN", key):
                assert str(value).startswith("/run/secrets/")
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value))


def test_every_setting_is_in_the_example():
    """Each setting has the same default everywhere."""
    references = set(re.findall(r"\$\{(\w+)(?::?[-?])([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))
    defaults = dict(references)
    assert len(references) == len(defaults)
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert defaults.pop("RELEARN_SECRETS").startswith("run infra/secrets.sh")
    assert "./secrets" == example.pop("RELEARN_SECRETS")
    assert defaults == example


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the scripts and the example of settings."""
    clone = tmp_path / "a clone"
    (clone / "infra").mkdir(parents=True)
    for name in ("infra/secrets.sh", ".env.example"):
        shutil.copy(ROOT / name, clone / name)
    for name in ("infra/monitoring", "infra/postgres"):
        shutil.copytree(ROOT / name, clone / name)
    return clone


def test_secrets_are_created_once(clone: Path):
    """All secrets differ, only the owner may enter the folder, a second run keeps them, none is printed."""
    script = clone / "infra" / "secrets.sh"
    results = [run(script), run(script)]
    assert [0, 0] == [result.returncode for result in results]
    folder = clone / "secrets"
    contents = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(COMPOSE["secrets"]) <= set(contents)
    assert 0o700 == folder.stat().st_mode & 0o777
    secrets = {name: text for name, text in contents.items() if name != "api_keys"}
    assert len(secrets) == len(set(secrets.values()))
    assert all(re.fullmatch("[A-Za-z0-9]{32}", text) for text in secrets.values())
    keys = [line for line in contents["api_keys"].splitlines() if not line.startswith("#")]
    assert [contents["metrics_key"], contents["client_key"]] == keys
    assert not any(text in result.stdout + result.stderr for text in secrets.values() for result in results)
    assert (clone / ".env").read_text() == (clone / ".env.example").read_text()


def test_mounted_files_are_readable_for_containers(clone: Path):
    """The script also fixes a clone that only its owner may read."""
    paths = [path for name in ("monitoring", "postgres") for path in (clone / "infra" / name).rglob("*")]
    for path in paths:
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert 0 == run(clone / "infra" / "secrets.sh").returncode
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in paths)
    assert all(path.stat().st_mode & 0o055 == 0o055 for path in paths if path.is_dir())


def test_old_key_stays_valid_after_rotation(clone: Path):
    """A deleted key is replaced and its old value still accepted; no other key changes."""
    script, keys = clone / "infra" / "secrets.sh", clone / "secrets" / "api_keys"
    run(script)
    old_lines = keys.read_text().split("\n")
    (clone / "secrets" / "client_key").unlink()
    assert 0 == run(script).returncode
    new_key = (clone / "secrets" / "client_key").read_text()
    assert new_key not in old_lines
    assert {*old_lines, new_key} == set(keys.read_text().split("\n"))


def test_new_key_is_added_on_its_own_line(clone: Path):
    """The last line may lack its newline, as some editors leave it."""
    script, keys = clone / "infra" / "secrets.sh", clone / "secrets" / "api_keys"
    run(script)
    old_text = keys.read_text()
    keys.chmod(0o600)
    keys.write_text(old_text.rstrip("\n"))
    (clone / "secrets" / "client_key").unlink()
    assert 0 == run(script).returncode
    assert old_text + (clone / "secrets" / "client_key").read_text() + "\n" == keys.read_text()


@pytest.mark.parametrize("words", ["inspect", "entrypoint id", "entrypoint find", "entrypoint sh"])
def test_images_that_cannot_be_inspected_do_not_pass(words: str, clone: Path):
    """The check fails if the engine does not have or cannot run the image."""
    shutil.copy(ROOT / "infra" / "check_images.sh", clone / "infra" / "check_images.sh")
    run(clone / "infra" / "secrets.sh")
    engine = clone / "engine"
    engine.write_text(f'#!/bin/sh\ncase "$*" in *"{words}"*) exit 125;; *find*) ;; *) echo 1;; esac\n')
    engine.chmod(0o755)
    result = run(clone / "infra" / "check_images.sh", "image=1", env={**os.environ, "ENGINE": str(engine)})
    assert 125 == result.returncode


def test_settings_without_secrets_folder_are_reported(clone: Path):
    """An existing .env is kept, and the message names the missing setting."""
    (clone / ".env").write_text("WORKERS=2\n")
    result = run(clone / "infra" / "secrets.sh")
    assert 2 == result.returncode
    assert [".env does not name RELEARN_SECRETS; .env.example does"] == result.stderr.splitlines()
    assert "WORKERS=2\n" == (clone / ".env").read_text()


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_missing_password_prevents_the_start(content: str | None, tmp_path: Path):
    """One line names the file and the script that creates it; exit code 3."""
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    result = run(ROOT / "infra" / "with_password.sh", file, "echo", "started")
    assert 3 == result.returncode
    assert "" == result.stdout
    assert [f"{file} contains no password: run infra/secrets.sh"] == result.stderr.splitlines()


def test_password_is_passed_in_the_environment(tmp_path: Path):
    """It is in no command line; PostgreSQL's clients read the variable."""
    file = tmp_path / "password"
    file.write_text("of the database\n")
    program = "import os, sys; print(os.environ['PGPASSWORD'], sys.argv)"
    result = run(ROOT / "infra" / "with_password.sh", file, sys.executable, "-c", program, "word")
    assert "of the database ['-c', 'word']\n" == result.stdout


@pytest.mark.parametrize(
    ("packages", "requirements", "is_rejected"),
    [
        (["nvidia-ml-py"], ["sympy"], False),
        ([], ["opt-einsum ; extra == 'opt-einsum'"], False),
        ([], ["cuda-toolkit==13.0 ; platform_system == 'Linux'"], True),
        ([], ["triton==3.7.1"], True),
        (["nvidia-cublas"], [], True),
    ],
)
def test_cpu_image_rejects_cuda(
    packages: list[str], requirements: list[str], is_rejected: bool, tmp_path: Path
):
    """If CUDA is installed or required by torch, the build fails with one line: the packages and the fix."""
    for package, package_requirements in [("torch", requirements), *((package, []) for package in packages)]:
        folder = tmp_path / f"{package.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        requires = [f"Requires-Dist: {requirement}" for requirement in package_requirements]
        lines = [f"Name: {package}", "Version: 1", *requires]
        (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    script = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if 'site-packages' not in p)]"
    )
    code = f"{script}; exec(open({str(ROOT / 'infra' / 'check_cpu_build.py')!r}).read())"
    result = run(sys.executable, "-c", code)
    assert is_rejected == (result.returncode != 0)
    assert is_rejected == ("TORCH_INDEX" in result.stderr)
    assert len(result.stderr.splitlines()) <= 1


def test_build_context_contains_only_code():
    """It includes only the listed paths: no secrets, no data, no git history."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    included = {line[1:] for line in lines if line.startswith("!")}
    assert {
        "relearn",
        "flows",
        "model",
        "serving",
        "infra",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
    } == included


def test_secrets_and_settings_are_ignored_by_git():
    assert {"/secrets/", "/.env"} <= set((ROOT / ".gitignore").read_text().splitlines())
