"""Output of all commands: data on stdout, messages for people on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sagelift.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def current_settings() -> Settings:
    """Read the settings in effect."""
    from sagelift.settings import load_settings

    return load_settings()


def say(line: str) -> None:
    """Print a line for people on stderr."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 product` or `1,000 products`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"
