"""The reference pages of docs/, made from the code. `make docs` writes them."""

import os
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infra.import_graph import ROOT, package_graph, reduce_transitively

NOTE = "Made from the code by `make docs`; do not edit."
DIAGRAM = re.compile(r"(?<=<!-- imports -->\n).*?(?=<!-- /imports -->)", re.S)


def build_pages() -> dict[Path, str]:
    """Return the content of each page, by its path below the root of the project."""
    pages: dict[str, Callable[[], str]] = {
        "commands": build_commands,
        "settings": build_settings,
        "http-api": build_http_api,
        "metrics": build_metrics,
        "files": build_files,
        "prediction-log": build_prediction_log,
        "exit-codes": build_exit_codes,
    }
    built = {Path("docs/reference") / f"{name}.md": build() for name, build in pages.items()}
    architecture = Path("docs/architecture.md")
    return built | {architecture: DIAGRAM.sub(build_diagram(), (ROOT / architecture).read_text())}


def build_commands() -> str:
    """Return the Markdown page of all commands and flags, as `--help` shows them."""
    from relearn.flows.cli.app import app

    markdown = app.generate_docs(output_format="markdown", usage_name="relearn")
    # The usage of nested commands has Python's own option.
    markdown = re.sub(r"^(relearn .*?) -m [\w.]+", r"\1", markdown, flags=re.MULTILINE)
    body = markdown.partition("\n**")[2]  # after a table of contents
    return f"# Commands\n\n{NOTE}\n\n**{re.sub(r'[ ]+$', '', body, flags=re.M).rstrip()}\n"


def build_settings() -> str:
    """Return the Markdown page of all settings: default, accepted values, flag and environment variable."""
    from relearn.flows.config import MonitorConfig, PromotionConfig
    from relearn.model.config import TrainConfig
    from relearn.serving.config import ServeConfig

    tables = {
        "Training": TrainConfig,
        "Promotion": PromotionConfig,
        "Monitoring": MonitorConfig,
        "Serving": ServeConfig,
    }
    parts = [
        "# Settings",
        NOTE,
        "A value comes from the flag, else the variable, else the file named by `--config`, else the\n"
        "preset, else the default. The flag of `learning_rate` is `--learning-rate`, its variable is\n"
        "`RELEARN_LEARNING_RATE`.",
    ]
    for title, table in tables.items():
        parts += [f"## {title}", _describe_fields(table)]
    return "\n\n".join(parts) + "\n"


def _describe_fields(table: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", _format_default(field), _describe_range(table, name), field.description or "")
        for name, field in table.model_fields.items()
    ]
    return _to_markdown(("setting", "default", "accepted", "meaning"), rows)


def _format_default(field: FieldInfo) -> str:
    return "" if field.default is None else f"`{field.default}`"


def _describe_range(table: type[BaseModel], name: str) -> str:
    """Return in words what the JSON schema of a setting accepts."""
    schema = table.model_json_schema()["properties"][name]
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return " or ".join(map(_describe_schema, options))


def _describe_schema(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        item = _describe_schema(schema["items"])
        return f"{schema.get('minItems', 0)} to {schema.get('maxItems', 'many')} × {item}"
    if "examples" in schema:
        return ", ".join(map(str, schema["examples"]))
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    limits = [
        f"{sign} {schema[key]:,}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([words.get(schema.get("type", ""), "text"), ", ".join(limits)]).strip()


def build_http_api() -> str:
    """Return the Markdown page of routes, parameters and error codes, from the OpenAPI document."""
    from relearn.serving.api.openapi import build_openapi
    from relearn.serving.api.routes import OPERATIONS
    from relearn.serving.config import ServeConfig

    document = build_openapi(OPERATIONS, ServeConfig(), None)
    parts = [
        "# HTTP API",
        NOTE,
        "A running server describes itself at `/openapi.json`, with its own shapes and classes.",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += list(_describe_operation(path, method, operation, document["components"]))
    return "\n\n".join(parts) + "\n"


def _describe_operation(
    path: str, method: str, operation: dict[str, Any], components: dict[str, Any]
) -> Iterator[str]:
    yield f"## `{method.upper()} {path}`"
    yield operation.get("description") or operation.get("summary", "")
    if parameters := operation.get("parameters"):
        rows = [(f"`{item['name']}`", item["in"], item.get("description", "")) for item in parameters]
        yield _to_markdown(("parameter", "in", "meaning"), rows)
    if body := operation.get("requestBody"):
        yield "Body: " + ", ".join(f"`{media_type}`" for media_type in body["content"])
    responses = {
        status: components["responses"][response["$ref"].rpartition("/")[2]]
        if "$ref" in response
        else response
        for status, response in operation["responses"].items()
    }
    rows = [(status, response["description"]) for status, response in responses.items()]
    yield _to_markdown(("status", "meaning"), rows)


def build_metrics() -> str:
    """Return the Markdown page of the metrics of a run in MLflow, and of `/metrics`."""
    from relearn.model.evaluation.metrics import METRICS
    from relearn.serving.metrics.prometheus import Metrics
    from relearn.serving.metrics.textfile_metrics import GAUGES_BY_FILE

    counted = [
        (
            f"`{metric._name}{'_total' if metric._type == 'counter' else ''}`",  # no public name
            metric._type,
            ", ".join(metric._labelnames),
            metric._documentation,
        )
        for metric in vars(Metrics()).values()
        if hasattr(metric, "_documentation")
    ]
    reported = [
        (f"`{name}`", "gauge", ", ".join(filter(None, ("name", label))), help_text)
        for gauges in GAUGES_BY_FILE.values()
        for name, (help_text, label) in gauges.items()
    ]
    evaluated = [(f"`{name}`", metric.direction, metric.help) for name, metric in METRICS.items()]
    columns = ("metric", "type", "labels", "meaning")
    parts = ["# Metrics", NOTE, "## Of a run, in MLflow"]
    parts += [
        "MLflow's page sorts charts by the prefix of their key: `best/` (the epoch whose weights are kept),\n"
        "`epoch/` (one value an epoch), `robustness/` (accuracy on corrupted images), `test/`, `time/`,\n"
        "`training/gradients/LAYER/`, `system/`. With `train_` and `val_` for the split of an epoch,\n"
        "`relearn compare --order-by` takes keys such as `test/accuracy` and `best/val_loss`."
    ]
    parts += [_to_markdown(("metric", "better", "meaning"), evaluated)]
    parts += ["## Of a server, in Prometheus", _to_markdown(columns, counted)]
    parts += ["## Of the monitor and the worker", _to_markdown(columns, reported)]
    return "\n\n".join(parts) + "\n"


def build_files() -> str:
    """Return the Markdown page of the folders of a home."""
    from relearn.model.home import Home

    home = Home(Path("$RELEARN_HOME"), Path("$RELEARN_DATA"))
    rows = []
    for name, member in vars(Home).items():
        if name.startswith("_") or (not isinstance(member, property) and not name.endswith("_dir")):
            continue
        path = (
            member.fget(home) if isinstance(member, property) and member.fget else getattr(home, name)("NAME")
        )
        rows.append((f"`{path}`", " ".join((member.__doc__ or "").split())))
    return "\n\n".join(["# Files of a home", NOTE, _to_markdown(("path", "content"), rows)]) + "\n"


def build_prediction_log() -> str:
    """Return the Markdown page of the prediction log: the fields of an entry in each kind of file."""
    from relearn.serving.predictions import entries

    parts = [
        "# Prediction log",
        NOTE,
        "A server appends JSON lines to the files of its model in `$RELEARN_HOME/predictions/NAME`, within\n"
        "0.25 s. At `log_max_mb` the oldest files are deleted. pandas reads them in one line:",
        "```python\n"
        'pd.concat(pd.read_json(file, lines=True, dtype=False) for file in folder.glob("predictions-*"))\n'
        "```",
        "`relearn.serving.predictions.reader.load_predictions(folder)` also joins the labels from feedback.\n"
        "A kill during a write truncates the last line of a file. The reader ignores it, the next server\n"
        "cuts it.",
    ]
    for entry in (entries.Prediction, entries.LoggedImage, entries.Feedback):
        schema = msgspec.json.schema(entry)["$defs"][entry.__name__]
        rows = [
            (
                f"`{name}`",
                " or ".join(option["type"] for option in field.get("anyOf", [field])),
                field["description"],
            )
            for name, field in schema["properties"].items()
        ]
        title, _, text = schema["description"].partition(": ")
        parts += [
            f"## {title}",
            f"{text[0].upper()}{text[1:]}",
            _to_markdown(("field", "type", "meaning"), rows),
        ]
    return "\n\n".join(parts) + "\n"


def build_exit_codes() -> str:
    """Return the Markdown page of the error classes: exit code, HTTP status and error code of each."""
    from relearn.model import errors

    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.RelearnError)
    ]
    rows = [
        (str(item.exit_code), str(item.http_status), f"`{item.code}`", " ".join((item.__doc__ or "").split()))
        for item in classes
        if item is not errors.RelearnError
    ]
    others = [
        ("0", "", "", "Success; HOLD included. A rejected candidate has exit code 4."),
        ("1", "500", "", "A fault of Relearn, with a traceback."),
    ]
    others += [
        ("141", "", "", "Nobody reads standard output any more, as after `relearn history | head -1`.")
    ]
    others += [("130", "", "`stopped`", "Ended by Ctrl-C."), ("143", "", "`stopped`", "Ended by SIGTERM.")]
    return (
        "\n\n".join(
            [
                "# Exit codes",
                NOTE,
                _to_markdown(
                    ("exit code", "HTTP status", "error code", "meaning"), others[:2] + rows + others[2:]
                ),
            ]
        )
        + "\n"
    )


def build_diagram() -> str:
    """Return the imports between packages as a Mermaid diagram; an edge that others imply is left out."""
    graph = reduce_transitively(package_graph())
    lines = ["```mermaid", "flowchart TD"]
    for layer in ("flows", "serving", "model"):
        lines.append(f"  subgraph {layer}_layer [{layer}/]")
        lines += [f"    {_node(name)}" for name in sorted(graph) if name.split(".")[0] == layer]
        lines.append("  end")
    lines += [f"  {_key(name)} --> {_key(other)}" for name in sorted(graph) for other in sorted(graph[name])]
    return "\n".join([*lines, "```"]) + "\n"


def _key(package: str) -> str:
    return package.replace(".", "_")


def _node(package: str) -> str:
    titles = {"flows": "train, retrain, release, monitor, prune", "serving": "service"}
    layer, _, name = package.partition(".")
    base = {"flows": "config, environment, …", "serving": "config"}
    title = titles.get(package) or (base.get(layer) if name == "base" else name) or "config, errors, home, …"
    return f'{_key(package)}["{title}"]'


def _to_markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def main() -> None:
    """Write every page that differs."""
    os.environ.setdefault("RELEARN_HOME", str(ROOT / ".relearn"))
    for path, text in build_pages().items():
        file = ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            print(f"written: {textwrap.shorten(str(path), 80)}")


if __name__ == "__main__":
    main()
