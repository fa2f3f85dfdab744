"""The page that a retraining leaves in Prefect: what was learned, from what, how well, how long."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict


class NetworkResult(TypedDict):
    """One trained network: accuracies and F1 in 0..1, `url` of its MLflow run."""

    name: str
    val_accuracy: float
    test_accuracy: float
    f1_macro: float
    seconds: float
    parameters: int
    url: str
    warnings: Sequence[str]


class ServedAnswer(TypedDict):
    """What the server said to one test image: the label it was given, and the true one."""

    truth: str
    label: str
    probability: float
    version: str
    milliseconds: float


def report(
    dataset: Mapping[str, Any],
    networks: Sequence[NetworkResult],
    chosen: str,
    answer: ServedAnswer,
    seconds: Mapping[str, float],
) -> str:
    """Markdown for someone who was not there, the result first.

    `dataset` is the card of the prepared data (`name`, `source`, `classes`, `shape`, `fingerprint`,
    `counts`, `findings`), `chosen` the name of the network to be released, `seconds` the stages in
    their order.
    """
    parts = [
        _result(dataset["name"], networks, chosen, answer["version"]),
        _networks(networks, chosen),
        _answer(answer),
        _data(dataset),
        _time(seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _result(name: str, networks: Sequence[NetworkResult], chosen: str, version: str) -> str:
    best = next(network for network in networks if network["name"] == chosen)
    why = f" It did best of {len(networks)} networks on the validation images." if len(networks) > 1 else ""
    return (
        f"# {_plain(name)}: {best['test_accuracy']:.2%} of the test images right\n\n"
        f"Version {_plain(version)} is the **{_plain(chosen)}**.{why} "
        "The test images were looked at only afterwards."
    )


def _networks(networks: Sequence[NetworkResult], chosen: str) -> str:
    ranked = sorted(networks, key=lambda network: (network["name"] != chosen, -network["val_accuracy"]))
    rows = [
        (
            _linked(network, "**" if network["name"] == chosen else ""),
            f"{network['val_accuracy']:.2%}",
            f"{network['test_accuracy']:.2%}",
            f"{network['f1_macro']:.4f}",
            f"{network['parameters']:,}",
            _duration(network["seconds"]),
        )
        for network in ranked
    ]
    head = ("Run in MLflow", "Validation accuracy", "Test accuracy", "Test F1", "Parameters", "Training")
    warnings = [
        f"- {_plain(network['name'])}: {_plain(line)}" for network in ranked for line in network["warnings"]
    ]
    return "\n\n".join(["## Networks", _table(head, rows), *(["\n".join(warnings)] if warnings else [])])


def _linked(network: NetworkResult, mark: str) -> str:
    return f"{mark}[{_plain(network['name'])}]({network['url']}){mark}"


def _answer(answer: ServedAnswer) -> str:
    right = "right" if answer["label"] == answer["truth"] else f"wrong, it is **{_plain(answer['truth'])}**"
    return (
        "## First answer over HTTP\n\n"
        f"The server said **{_plain(answer['label'])}** with {answer['probability']:.1%} to the first test "
        f"image ({right}), from version {_plain(answer['version'])}, in {answer['milliseconds']:.0f} ms."
    )


def _data(dataset: Mapping[str, Any]) -> str:
    channels, height, width = dataset["shape"]
    counts = ", ".join(f"{count:,} for {part}" for part, count in dataset["counts"].items())
    findings = [
        f"- {_plain(finding['level'])}: {_plain(finding['message'])}" for finding in dataset["findings"]
    ]
    return "\n\n".join(
        [
            "## Data",
            f"{_plain(dataset['source'])}: {counts}; {len(dataset['classes'])} classes; "
            f"{'colour' if channels == 3 else 'grey'} images of {height}×{width} pixels; "
            f"fingerprint `{dataset['fingerprint'][:12]}`.",
            "\n".join(findings) or "Nothing was found wrong with it.",
        ]
    )


def _time(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    rows = [
        (_plain(stage), _duration(spent), f"{spent / total:.0%}" if total else "–")
        for stage, spent in seconds.items()
    ]
    return "## Time\n\n" + _table(
        ("Stage", "Time", "Share"), [*rows, ("**all**", f"**{_duration(total)}**", "")]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column reads from the left, numbers stand at the right."""
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def _plain(text: str) -> str:
    """Text of the user's as it is, on one line: no character of it means anything to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&$])", r"\\\1", " ".join(text.split()))
