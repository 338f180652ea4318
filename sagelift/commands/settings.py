"""`sagelift settings`: the reference of all settings."""

from __future__ import annotations

from typing import Annotated

import typer

from sagelift.commands.console import AsJson, print_json


def settings(
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the settings reference of the documentation.")
    ] = False,
) -> None:
    """List all settings: environment variable, default, meaning."""
    from sagelift.settings_reference import rows, to_markdown

    if markdown:
        return typer.echo(to_markdown(), nl=False)
    if as_json:
        return print_json([row.model_dump() for row in rows()])
    for row in rows():
        typer.echo(f"{row.variable}={row.default}\n    {row.description}")
