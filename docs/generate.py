"""Write the generated pages of docs/reference: commands, settings, metrics and the REST interface.

`python docs/generate.py` writes them; `--check` exits with 1 and names the pages that differ from what it would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer.main

REFERENCE = Path(__file__).parent / "reference"
HTTP_METHODS = ("get", "put", "post", "delete", "patch")


def commands_page() -> str:
    """Every command with its arguments and options, from the command line itself."""
    from sagelift.commands.cli import app

    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "`make docs` generates this page from the command line; `sagelift COMMAND --help` prints the same.",
        "Data goes to stdout, progress and messages for people to stderr. `--json` prints one JSON object.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | Success. |",
        "| 1 | A finding: refused rows, a failed check, a breached guardrail. |",
        "| 2 | Wrong usage or wrong settings. |",
        "| 3 | The command could not do its work; the message says why. |",
        "| 4 | A consumer stopped because it cannot use most of the messages. |",
        "| 130 | Interrupted with Ctrl-C. |",
        "",
    ]
    for path, command in _leaves(root, ("sagelift",)):
        lines += [f"## {' '.join(path)}", "", _paragraphs(command.help or ""), ""]
        lines += [f"```\n{_usage(path, command)}\n```", ""]
        context = typer.Context(command, info_name=" ".join(path))
        rows = [_row(p, context) for p in command.params if not p.hidden and p.name != "help"]
        if rows:
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in sorted(children.items()):
        if not child.hidden:
            yield from _leaves(child, (*path, name))


def _usage(path: tuple[str, ...], command: Any) -> str:
    context = typer.Context(command, info_name=" ".join(path))
    return " ".join([" ".join(path), *command.collect_usage_pieces(context)])


def _row(parameter: Any, context: typer.Context) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{(parameter.metavar or parameter.name).upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag:
            kind = parameter.display_type(context).strip("<>").removeprefix("list[").removesuffix("]")
            name += " " + _cell(kind.replace("str", "text"))
    if getattr(parameter, "multiple", False):
        name += " (repeatable)"
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif default is None or default is False or default == () or callable(default) or default == []:
        shown = ""
    else:
        shown = f"`{getattr(default, 'value', default)}`"
    return f"| {name} | {_cell(shown)} | {_cell(getattr(parameter, 'help', None) or '')} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))


def settings_page() -> str:
    """What `sagelift settings --markdown` prints."""
    from sagelift.settings_reference import to_markdown

    return to_markdown()


def metrics_page() -> str:
    """Every series that a consumer exposes, from the collectors themselves."""
    lines = [
        "# Metrics",
        "",
        "`make docs` generates this page. A consumer serves these series at `/metrics`, in Prometheus' text format.",
        "Every series has the label `consumer`. [Consumers](../operators/consumers.md) says which of them to alert on.",
        "",
        "| series | type | other labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in _observed_families():
        if not family.name.startswith("sagelift_"):
            continue  # the process's own series, which prometheus_client documents
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"consumer", "le"})
        lines.append(
            f"| `{name}` | {family.type} | {', '.join(f'`{x}`' for x in labels)} | {_cell(family.documentation)} |"
        )
    return "\n".join(lines) + "\n"


def _observed_families() -> list[Any]:
    """The families of a consumer that has seen one of everything, so that each has a sample and its labels."""
    from sagelift.observability.health import HealthState
    from sagelift.observability.metrics import LiveValues, WorkerMetrics

    live = LiveValues(HealthState.RUNNING, 1, {0: 0}, 0, 0.0, 0.0, "closed")
    metrics = WorkerMetrics("catalog", version("sagelift"), lambda: live)
    metrics.stage_done("features", 1, 0.1)
    metrics.stage_failed("features", OSError())
    metrics.finished(1, 0)
    metrics.counted({"features": 1, "stale": 1})
    metrics.dead_letters({"decode": 1})
    metrics.unknown_fields({"colour": 1})
    metrics.fresh([1.0])
    return list(metrics.registry.collect())


def rest_page() -> str:
    """The experiments' REST and OFREP interface, from its OpenAPI document."""
    document: dict[str, Any] = json.loads((REFERENCE / "experiments-openapi.json").read_text("utf-8"))
    lines = [
        "# REST interface",
        "",
        "`make docs` generates this page from [the OpenAPI document](experiments-openapi.json).",
        "`sagelift serve experiments` serves it. [Assignment over REST](../shops/experiments-api.md) shows its use.",
        "",
    ]
    for path, operations in document["paths"].items():
        for method in HTTP_METHODS:
            if (operation := operations.get(method)) is None:
                continue
            lines += [f"## {method.upper()} {path}", ""]
            summary, description = operation.get("summary", ""), operation.get("description", "")
            lines += [_paragraphs(description or summary), ""]
            rows = [_parameter(p, document) for p in operation.get("parameters", ())]
            body = operation.get("requestBody", {}).get("content", {})
            rows += [f"| body | {_schema_name(c)} | {kind} |" for kind, c in body.items()]
            if rows:
                lines += ["| parameter | type | meaning |", "|---|---|---|", *rows, ""]
            lines += ["| status | answer |", "|---|---|"]
            lines += [f"| {code} | {_cell(answer['description'])} |" for code, answer in operation["responses"].items()]
            lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _parameter(parameter: dict[str, Any], document: dict[str, Any]) -> str:
    if "$ref" in parameter:
        parameter = document["components"]["parameters"][parameter["$ref"].rsplit("/", 1)[1]]
    schema = parameter.get("schema", {})
    kind = schema.get("type") or " or ".join(s.get("type", "") for s in schema.get("anyOf", ()))
    name = f"`{parameter['name']}` ({parameter['in']})"
    return f"| {name} | {kind} | {_cell(parameter.get('description', ''))} |"


def _schema_name(content: dict[str, Any]) -> str:
    reference = content.get("schema", {}).get("$ref", "")
    return f"`{reference.rsplit('/', 1)[1]}`" if reference else content.get("schema", {}).get("type", "")


PAGES = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "rest.md": rest_page,
}


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    stale = []
    for name, write in PAGES.items():
        path, text = REFERENCE / name, write()
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, "utf-8")
    if "--check" in arguments and stale:
        print(f"generated pages are out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    print(f"{len(PAGES)} pages checked, {len(stale)} {'out of date' if '--check' in arguments else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
