"""The page that a retraining leaves in Prefect: what was learned, from what, how well, how long."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flows.results import Answer, Retrained, Trained
from model.quality import Finding


def report(done: Retrained, card: Mapping[str, Any]) -> str:
    """Markdown for someone who was not there, the result first; `card` is that of the prepared data."""
    parts = [
        _result(done),
        _networks(done),
        _answer(done.answer),
        _data(card),
        _time(done.seconds),
    ]
    return "\n\n".join(parts) + "\n"


def _result(done: Retrained) -> str:
    best, count = done.best, len(done.trained)
    why = f" It did best of {count} networks on the validation images." if count > 1 else ""
    return (
        f"# {_plain(done.name)}: {best.metrics['accuracy']:.2%} of the test images right\n\n"
        f"Version {_plain(done.version)} is the **{_plain(best.network)}**.{why} "
        "The test images were looked at only afterwards."
    )


def _networks(done: Retrained) -> str:
    chosen = done.best.network
    ranked = sorted(done.trained, key=lambda one: (one.network != chosen, -one.val_accuracy))
    rows = [
        (
            _linked(one, "**" if one.network == chosen else ""),
            f"{one.val_accuracy:.2%}",
            f"{one.metrics['accuracy']:.2%}",
            f"{one.metrics['f1_macro']:.4f}",
            f"{one.parameters:,}",
            _duration(one.seconds),
        )
        for one in ranked
    ]
    head = ("Run in MLflow", "Validation accuracy", "Test accuracy", "Test F1", "Parameters", "Training")
    warnings = [f"- {_plain(one.network)}: {_plain(line)}" for one in ranked for line in one.warnings]
    return "\n\n".join(["## Networks", _table(head, rows), *(["\n".join(warnings)] if warnings else [])])


def _linked(trained: Trained, mark: str) -> str:
    return f"{mark}[{_plain(trained.network)}]({trained.url}){mark}"


def _answer(answer: Answer) -> str:
    right = "right" if answer.label == answer.truth else f"wrong, it is **{_plain(answer.truth)}**"
    return (
        "## First answer over HTTP\n\n"
        f"The server said **{_plain(answer.label)}** with {answer.probability:.1%} to the first test "
        f"image ({right}), from version {_plain(answer.version)}, in {answer.milliseconds:.0f} ms."
    )


def _data(dataset: Mapping[str, Any]) -> str:
    channels, height, width = dataset["shape"]
    counts = ", ".join(f"{sum(each):,} for {part}" for part, each in dataset["counts"].items())
    found = [Finding(**finding) for finding in dataset["findings"]]
    findings = [f"- {_plain(finding.level)}: {_plain(str(finding))}" for finding in found]
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
