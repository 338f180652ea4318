"""Groups of options as dataclasses, so that one parameter of a command stands for many options.

    @dataclass(frozen=True)
    class StatisticsOptions:
        panel: ClassVar[str] = "Statistics"
        alpha: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05

    @app.command()
    @expand_options
    def analyze(table: Table, statistics: StatisticsOptions) -> None: ...

Typer reads the options of a command from its signature. `expand_options` gives the command a signature in which the
fields of each dataclass take the place of the dataclass, and builds the dataclass from what the user wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

Result = TypeVar("Result")


def expand_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Replace each parameter that is a dataclass of options by the options themselves.

    Args:
        command: Function with annotated parameters. The fields of its dataclasses carry `typer.Option` in
            `Annotated`. A class variable `panel` names the panel of the help that shows the options.

    Returns:
        A function that Typer can register. It takes keyword arguments only.

    Raises:
        ValueError: Two groups have an option of the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _options(hints[name])
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, kind, default=parameter.default, annotation=hints[name]))
    signature = inspect.Signature(parameters)

    @wraps(command)
    def expanded(**values: Any) -> Result:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    expanded.__signature__ = signature  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _options(group: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    panel = getattr(group, "panel", None)
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation = _with_panel(hints[field.name], panel)
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_panel(hint: Any, panel: str | None) -> Any:
    """The annotation of an option, with the panel of its group unless the option names its own."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, info, *rest = get_args(hint)
    if not isinstance(info, OptionInfo) or info.rich_help_panel is not None:
        return hint
    info = copy(info)
    info.rich_help_panel = panel
    return Annotated[(kind, info, *rest)]
