"""What every HTML page of ours needs: its template, and its way onto the disk."""

from pathlib import Path
from typing import Any


def template(path: Path) -> Any:
    """The Jinja template of this file, strict about names; everything that comes from data is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def write(text: str, path: Path) -> Path:
    """Write the page aside and rename it, so that a reader never sees half of it."""
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(text, encoding="utf-8")
        return aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
