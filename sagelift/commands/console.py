"""What all commands share: data on stdout, words for people on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sagelift.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def current_settings() -> Settings:
    """The settings in effect, read when a command needs them."""
    from sagelift.settings import load_settings

    return load_settings()


def say(line: str) -> None:
    """A line for people, on stderr."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """A value as indented JSON, on stdout."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
