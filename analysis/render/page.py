"""Loading of the Jinja template of an HTML page."""

from pathlib import Path
from typing import Any


def load_template(path: Path) -> Any:
    """Load a Jinja template. An unknown name is an error, and everything that comes from data is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)
