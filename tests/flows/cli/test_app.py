"""Command line: precedence of settings, help, and one line per error."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from relearn.flows.cli import app
from relearn.flows.cli.app import run_command_line
from relearn.model.config import PRESETS

COMMANDS = (
    *("run", "data", "train", "evaluate", "compare", "release", "rollback", "history"),
    *("serve", "up", "predict", "feedback", "status", "monitor", "schedule", "notify", "doctor", "home"),
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home() -> Path:
    """The home of this test, an empty folder."""
    return Path(os.environ["RELEARN_HOME"])


def error_lines(arguments: list[str], capsys: Capture) -> list[str]:
    """Run a command that has to fail with exit code 2 and no output; return the lines on standard error."""
    assert 2 == run_command_line(arguments)

    captured = capsys.readouterr()
    assert "" == captured.out
    return captured.err.splitlines()


def printed_setting(name: str, capsys: Capture) -> list[str]:
    """Return value and origin of a setting that `relearn doctor --settings` has just printed."""
    for line in capsys.readouterr().out.splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if cells[0] == name:
            return cells[1:3]
    raise AssertionError(f"{name} is not printed")


@pytest.mark.parametrize(
    ("flag", "value", "accepted"),
    [
        ("device", "tpu", "auto, cpu, cuda, cuda:0, mps"),
        ("model-name", "A/B", "1 to 63 of a–z 0–9 - _, with a letter or digit at both ends"),
        ("learning-rate", "0", "greater than 0"),
        ("learning-rate", "-1", "greater than 0"),
        ("learning-rate", "nan", "a finite number"),
        ("learning-rate", "inf", "a finite number"),
        ("learning-rate", "1e9", "less than or equal to 10"),
        ("learning-rate", "fast", "a valid number"),
        ("momentum", "-0.1", "greater than or equal to 0"),
        ("momentum", "1.0", "less than 1"),
        ("momentum", "2", "less than 1"),
        ("batch-size", "0", "greater than or equal to 1"),
        ("batch-size", "-1", "greater than or equal to 1"),
        ("batch-size", "1.5", "a valid integer"),
        ("batch-size", "1000000000", "less than or equal to 65536"),
        ("epochs", "0", "greater than or equal to 1"),
        ("epochs", "-1", "greater than or equal to 1"),
        ("epochs", "1000000000", "less than or equal to 10000"),
        ("patience", "0", "greater than or equal to 1"),
        ("patience", "-1", "greater than or equal to 1"),
        ("min-delta", "nan", "a finite number"),
        ("seed", "-1", "greater than or equal to 0"),
        ("seed", str(2**64), "less than 9223372036854775808"),
        ("seed", "x", "a valid integer"),
        ("validation-fraction", "0", "greater than 0"),
        ("validation-fraction", "1", "less than 1"),
        ("validation-fraction", "1.5", "less than 1"),
        ("test-fraction", "1", "less than 1"),
        ("image-size", "7", "greater than or equal to 8"),
        ("channels", "2", "1 or 3"),
        ("optimizer", "lion", "'sgd', 'rmsprop', 'adagrad', 'adam' or 'adamw'"),
    ],
)
def test_value_out_of_range_is_rejected(
    flag: str, value: str, accepted: str, home: Path, capsys: Capture
) -> None:
    """Flag, value and accepted range; nothing is written."""
    assert [f"error[config]: --{flag}: got {value!r}, accepted: {accepted}"] == error_lines(
        ["train", f"--{flag}", value], capsys
    )
    assert [] == list(home.iterdir())


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("model-name", ""),
        ("model-name", "a" * 10_000),
        ("model-name", "a/b"),
        ("model-name", "a\0b"),
        ("model-name", "Änne"),
        ("model-name", "ends-"),
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("hidden-sizes", "0"),
        ("hidden-sizes", "1000000000"),
    ],
)
def test_malformed_value_is_rejected(flag: str, value: str, home: Path, capsys: Capture) -> None:
    """The message shows at most 80 characters of the value."""
    (line,) = error_lines(["run", f"--{flag}", value], capsys)

    assert line.startswith(f"error[config]: --{flag}")
    assert f"got {value[:80]!r}, accepted: " in line
    assert len(line) < 300
    assert [] == list(home.iterdir())


def test_all_errors_are_reported_at_once(capsys: Capture) -> None:
    """Every error is a line of its own."""
    lines = error_lines(["train", "--epochs", "0", "--momentum", "2", "--seed", "x"], capsys)

    assert [f"error[config]: --{name}" for name in ("epochs", "momentum", "seed")] == sorted(
        line.split(": got")[0] for line in lines
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "error[usage]: command: got 'trian', did you mean 'train'?"),
        (["fly"], f"error[usage]: command: got 'fly', accepted: {', '.join(COMMANDS)}"),
        (
            ["--epochs", "3", "train"],
            f"error[usage]: command: got '--epochs', accepted: {', '.join(COMMANDS)}",
        ),
        (["train", "--epohcs", "3"], "error[usage]: Unknown option: --epohcs. Did you mean --epochs?"),
        (["train", "digits"], "error[usage]: arguments: got 'digits' too many"),
        (["train", "--epochs"], 'error[usage]: Command "train" parameter --epochs requires an argument.'),
        (["train", "--config"], 'error[usage]: Command "train" parameter --config requires an argument.'),
        (["train", "-q", "-v"], "error[usage]: --quiet: got --verbose as well, accepted: one of the two"),
        (["evaluate"], 'error[usage]: Command "evaluate" parameter RUN requires an argument.'),
        (
            ["train", "--preset", "slow"],
            f"error[config]: --preset: got 'slow', accepted: {', '.join(PRESETS)}",
        ),
    ],
)
def test_unknown_argument_is_rejected(arguments: list[str], line: str, home: Path, capsys: Capture) -> None:
    """With a suggestion if a similar one exists."""
    assert [line] == error_lines(arguments, capsys)
    assert [] == list(home.iterdir())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "error[user_input]: --config {path} cannot be read: No such file or directory"),
        (
            "epochs = \n",
            "error[user_input]: --config {path} is not valid TOML: Invalid value (at line 1, column 10)",
        ),
        (
            "epochs = 1\nepochs = 2\n",
            "error[user_input]: --config {path} is not valid TOML: Cannot overwrite a value "
            "(at line 2, column 11)",
        ),
        ("epohcs = 1\n", 'error[usage]: Unknown option: "[epohcs]" from {path}. Did you mean --epochs?'),
        (
            "[train]\nepochs = 5\n",
            "error[user_input]: --config {path}: got 'train', "
            "accepted: settings such as epochs = 5, outside of any table",
        ),
        (
            "[table]\nepochs = 5\n",
            "error[user_input]: --config {path}: got 'table', "
            "accepted: settings such as epochs = 5, outside of any table",
        ),
        (
            "epochs = 1.5\n",
            "error[config]: epochs in {path}: got '1.5', accepted: a valid integer",
        ),
        (
            "learning_rate = 0\n",
            "error[config]: learning_rate in {path}: got '0', accepted: greater than 0",
        ),
    ],
)
def test_invalid_settings_file_is_rejected(
    content: str | None, line: str, tmp_path: Path, home: Path, capsys: Capture
) -> None:
    """With the path of the file, and the position in it."""
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_text(content)

    assert [line.format(path=path)] == error_lines(["train", "--config", str(path)], capsys)
    assert [] == list(home.iterdir())


def test_unreadable_settings_file_is_rejected(tmp_path: Path, capsys: Capture) -> None:
    """A folder, and bytes that are not UTF-8."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\0")

    assert [f"error[user_input]: --config {tmp_path} cannot be read: Is a directory"] == error_lines(
        ["train", "--config", str(tmp_path)], capsys
    )
    assert error_lines(["train", "--config", str(tmp_path / "bytes")], capsys)[0].startswith(
        f"error[user_input]: --config {tmp_path / 'bytes'} cannot be read: 'utf-8'"
    )


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        (
            "network",
            "nope",
            "error[config]: network: got 'nope', accepted: mlp, cnn, pretrained, pretrained-lite1, "
            "pretrained-lite2 or a custom class as package.module:Class",
        ),
        ("network", "nowhere.at_all:Net", "error[network]: network: no module named 'nowhere' from {here}"),
        ("network", "json:Net", "error[network]: network: json has no class 'Net'"),
        ("dataset", "mnits", "error[data]: dataset: got 'mnits', accepted: auto, mnist, fashion_mnist, "),
        ("dataset", "folder:/no/where", "error[not_found]: dataset: /no/where does not exist"),
        ("dataset", "csv:/", "error[data]: dataset: got /, which is a folder, accepted after csv: a file"),
        ("device", "cuda:99", "error[config]: device: got 'cuda:99', accepted on this machine: auto, cpu"),
    ],
)
def test_missing_resource_is_rejected_before_any_work(
    command: str, flag: str, value: str, expected: str, home: Path, capsys: Capture
) -> None:
    """No server is started, no data read, nothing written."""
    (line,) = error_lines([command, f"--{flag}", value], capsys)

    assert line.startswith(expected.format(here=Path.cwd()))
    assert [] == list(home.iterdir())


@pytest.mark.parametrize("command", ["run", "train"])
def test_unsupported_precision_is_rejected_before_any_work(command: str, home: Path, capsys: Capture) -> None:
    """The message lists the supported ones."""
    assert ["error[config]: precision: got 'tf32', accepted on cpu: float32, bfloat16"] == error_lines(
        [command, "--precision", "tf32", "--device", "cpu"], capsys
    )
    assert [] == list(home.iterdir())


def test_all_networks_are_checked_before_training(home: Path, capsys: Capture) -> None:
    """An unknown last network stops the run before the first is trained."""
    (line,) = error_lines(["run", "--network", "mlp", "nope"], capsys)

    assert line.startswith("error[config]: network: got 'nope', accepted: mlp, cnn, pretrained")
    assert [] == list(home.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare"], "error[not_found]: no run yet, there is no {home}/mlflow.db: run relearn run or "),
        (["compare", "mlp"], "error[not_found]: no run yet, there is no {home}/mlflow.db: run relearn run"),
        (["evaluate", "mlp"], "error[not_found]: no run yet, there is no {home}/mlflow.db: run relearn run"),
        (["serve"], "error[not_found]: nothing released yet: run `relearn run`"),
        (["predict", "x.png"], "error[not_found]: nothing released yet: run `relearn run`"),
        (["serve", "--port", "-1"], "error[config]: --port: got '-1', accepted: greater than or equal to 0"),
    ],
)
def test_reading_verbs_write_nothing(
    arguments: list[str], expected: str, home: Path, capsys: Capture
) -> None:
    """In an empty home they print which command creates runs or releases."""
    (line,) = error_lines(arguments, capsys)

    assert line.startswith(expected.format(home=home))
    assert [] == list(home.iterdir())


def test_flag_overrides_variable_file_and_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """In this order; `relearn doctor --settings` prints the origin."""
    file = tmp_path / "settings.toml"
    file.write_text("epochs = 2\nhidden_sizes = [64, 32]\n")
    layers = ["doctor", "--settings", "--preset", "tutorial"]
    monkeypatch.setenv("COLUMNS", "300")

    run_command_line(["doctor", "--settings"])
    assert ["15", "default"] == printed_setting("epochs", capsys)
    run_command_line(layers)
    assert ["256", "preset tutorial"] == printed_setting("batch_size", capsys)
    with monkeypatch.context() as variables:
        variables.setenv("RELEARN_PRESET", "tutorial")
        variables.setenv("RELEARN_CONFIG", str(file))
        run_command_line(["doctor", "--settings"])
    printed = capsys.readouterr().out
    assert "preset tutorial" in printed
    assert str(file) in printed
    run_command_line([*layers, "--config", str(file)])
    assert ["2", str(file)] == printed_setting("epochs", capsys)
    monkeypatch.setenv("RELEARN_EPOCHS", "4")
    run_command_line([*layers, "--config", str(file)])
    assert ["4", "RELEARN_EPOCHS"] == printed_setting("epochs", capsys)
    run_command_line([*layers, "--config", str(file), "--epochs", "7"])
    assert ["7", "cli"] == printed_setting("epochs", capsys)
    run_command_line([*layers, "--config", str(file), "--epochs", "7"])
    assert ["(64, 32)", str(file)] == printed_setting("hidden_sizes", capsys)


def test_list_is_one_flag_or_repeated_flags(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Both forms have the same effect."""
    monkeypatch.setenv("COLUMNS", "300")

    run_command_line(["doctor", "--settings", "--hidden-sizes", "784", "512"])
    assert ["(784, 512)", "cli"] == printed_setting("hidden_sizes", capsys)
    run_command_line(["doctor", "--settings", "--hidden-sizes", "784", "--hidden-sizes", "512"])
    assert ["(784, 512)", "cli"] == printed_setting("hidden_sizes", capsys)


def test_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """No error, since another version may know it; settings of training and serving are known."""
    for name in ("RELEARN_EPOHCS", "RELEARN_EPOCHS", "RELEARN_PORT"):
        monkeypatch.setenv(name, "3")

    assert 0 == run_command_line(["doctor", "--settings"])
    assert "warning: RELEARN_EPOHCS is set, but has no effect on this command\n" == capsys.readouterr().err


@pytest.mark.parametrize("variable", ["RELEARN_HOME", "RELEARN_DATA"])
def test_home_of_unknown_user_is_rejected(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """`~name` is the home folder of a user, who has to exist."""
    monkeypatch.setenv(variable, "~nobody-of-that-name/x")
    (line,) = error_lines(["doctor", "--settings"], capsys)
    assert line.startswith(
        f"error[user_input]: {variable}: got '~nobody-of-that-name/x', there is no such user"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    """Usage is printed without warnings."""
    assert 0 == run_command_line([command, "--help"])

    captured = capsys.readouterr()
    assert f"Usage: relearn {command}" in captured.out
    assert "" == captured.err


def test_help_lists_every_command(capsys: Capture) -> None:
    """The list of commands is complete and has no others."""
    assert 0 == run_command_line(["--help"])

    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[1] for line in lines if line.startswith("│ ") and line[2].isalpha()]
    assert list(COMMANDS) == listed
    assert len(listed) <= 18


def test_help_leads_on(capsys: Capture) -> None:
    """Each topic has an example that its commands understand; the variables and the documents are named."""
    assert 0 == run_command_line(["help"])
    printed = capsys.readouterr().out
    for topic, (example, commands) in app.COMMANDS.items():
        assert f"─ {topic}: {example} ─" in printed
        assert example.split()[1] in commands
    for name in ("RELEARN_HOME", "RELEARN_DATA", "RELEARN_API_KEYS", "RELEARN_BATCH_SIZE"):
        assert name in printed
    assert app.DOCS.is_dir()
    assert f"Docs: {app.DOCS}" in printed.replace("\n", "")


SUBCOMMANDS = ("data inspect", "data eda", "data history", "data diff")
SUBCOMMANDS += ("feedback review", "feedback accept", "feedback reject")
SUBCOMMANDS += ("home backup", "home restore", "home prune")
PLAIN_COMMANDS = [name for name in COMMANDS if name not in {"data", "feedback", "home"}]


@pytest.mark.parametrize("command", [*PLAIN_COMMANDS, *SUBCOMMANDS])
def test_help_of_a_command_has_an_example_of_it(command: str, capsys: Capture) -> None:
    """With flags that it has."""
    assert 0 == run_command_line(["help", *command.split()])
    printed = capsys.readouterr().out
    example = re.search(r"^Example: (?:RELEARN_HOME=\S+ )?(relearn .+?) *$", printed, re.MULTILINE)
    assert example
    assert example[1].startswith(f"relearn {command}")
    for flag in re.findall(r"--[a-z-]+", example[1]):
        assert flag in printed.replace(example[1], "")


def test_relearn_alone_shows_the_next_command(home: Path, capsys: Capture) -> None:
    """In an empty home nothing is trained, released or running, and nothing is written."""
    assert 0 == run_command_line([])
    lines = capsys.readouterr().out.splitlines()
    assert ["Trained", "Released", "Running"] == [line.split()[0] for line in lines if "nothing" in line]
    assert any(re.fullmatch(r"Next: .*relearn run", line) for line in lines)
    assert [] == list(home.iterdir())


def test_verbose_names_the_paths_in_use(home: Path, capsys: Capture) -> None:
    """On standard error, so that the output stays the result."""
    assert 0 == run_command_line(["-v", "status", "--json"])
    captured = capsys.readouterr()
    assert re.search(rf"^home +{home}$", captured.err, re.MULTILINE)
    assert isinstance(json.loads(captured.out), list)


def test_help_of_a_command_is_its_whole_docstring(capsys: Capture) -> None:
    """The summary, which the list of commands shows too, and the paragraphs after it, but no parameters."""
    assert 0 == run_command_line(["home", "prune", "--help"])

    output = " ".join(capsys.readouterr().out.split())
    assert "longer needed. Always kept: the live version, the rollback target" in output
    assert 1 == output.count("Only print what would be removed.")


@pytest.mark.parametrize("columns", ["0", "1", "20", "-5", "wide"])
def test_every_value_is_printed_in_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Help and tables have 60 columns at least, which a narrower terminal wraps."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("RELEARN_BATCH_SIZE", "4321")
    assert 0 == run_command_line(["doctor", "--settings"])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "batch_size" in line)
    assert "4321" in row
    monkeypatch.setenv("COLUMNS", columns)
    assert 0 == run_command_line(["--help"])
    assert "Start the prediction API" in capsys.readouterr().out


def test_narrow_terminal_is_wide_enough_for_values() -> None:
    """Its width counts as that of `COLUMNS` does."""
    reading_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "relearn", "doctor", "--settings"],
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        stdout=terminal,
    )
    os.close(terminal)
    printed = b""
    with suppress(OSError):  # at the end
        while chunk := os.read(reading_end, 65_536):
            printed += chunk
    assert 0 == process.wait()
    assert 60 == max(map(len, re.sub(rb"\x1b\[[\d;]*m", b"", printed).decode().splitlines()))


def test_versions_are_the_installed_ones(capsys: Capture) -> None:
    """One line each: Relearn, the tools, Python."""
    from importlib.metadata import version

    assert 0 == run_command_line(["--version"])
    names = ("relearn", "torch", "prefect", "mlflow", "bentoml")
    python = ".".join(map(str, sys.version_info[:3]))
    expected = [*(f"{name} {version(name)}" for name in names), f"python {python}"]
    assert expected == capsys.readouterr().out.splitlines()


def test_help_and_errors_import_no_heavy_library() -> None:
    """Libraries that take seconds to import are imported after the flags have been parsed."""
    code = (
        "import sys\n"
        "from relearn.flows.cli.app import run_command_line\n"
        "heavy = {'torch', 'mlflow', 'prefect', 'bentoml', 'pandas', 'matplotlib', 'sqlalchemy'}\n"
        "for words in ([], ['--help'], ['trian'], ['run', '--help'], ['train', '--epochs', '0'],\n"
        "              ['doctor', '--settings'], ['history'], ['history', '--json'], ['release'],\n"
        "              ['compare', '--help'], ['serve', '--help'], ['predict', '--help'], ['serve'],\n"
        "              ['feedback', '--help'], ['feedback', 'accept', '--help'], ['feedback', 'review']):\n"
        "    run_command_line(words)\n"
        "    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


@pytest.mark.needs("bash")
def test_completion_knows_every_command(tmp_path: Path) -> None:
    """After one `--install-completion`."""
    subprocess.run(
        [sys.executable, "-m", "relearn", "--install-completion"],
        env={**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"},
        capture_output=True,
        check=True,
    )
    script = tmp_path / ".local" / "share" / "bash-completion" / "completions" / "relearn"
    code = f'source {script}; COMP_WORDS=(relearn ro); COMP_CWORD=1; _relearn; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert "rollback" == done.stdout.strip(), done.stderr
