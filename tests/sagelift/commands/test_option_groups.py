"""Groups of options: the fields of a dataclass become the options of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner, Result

from sagelift.commands.option_groups import expand_options


@dataclass(frozen=True)
class Size:
    panel: ClassVar[str] = "Size of the box"

    width: Annotated[int, typer.Option(help="Width.")]
    depth: Annotated[int, typer.Option("--deep", help="Depth.")] = 2
    colour: Annotated[str, typer.Option(help="Colour.", rich_help_panel="Looks")] = "red"


@dataclass(frozen=True)
class Clash:
    width: Annotated[int, typer.Option(help="Another width.")] = 1


@expand_options
def box(
    size: Size,
    name: Annotated[str, typer.Argument(help="Name.")],
    loud: Annotated[bool, typer.Option("--loud")] = False,
) -> None:
    """Describe a box."""
    typer.echo(f"{name} {size} {loud}")


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(box)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_a_command_gets_its_options_as_one_object() -> None:
    assert run("b", "--width", "3").stdout == f"b {Size(3)} False\n"
    assert run("b", "--width", "3", "--deep", "5", "--loud").stdout == f"b {Size(3, 5)} True\n"


def test_a_field_without_a_default_is_a_required_option() -> None:
    done = run("b")
    assert done.exit_code == 2
    assert "--width" in done.output


def test_the_help_shows_a_group_in_its_panel_unless_an_option_names_another() -> None:
    panels = run("--help").stdout.split("╭─ ")
    options = {panel.split(" ─")[0]: panel for panel in panels}
    assert "--width" in options["Size of the box"]
    assert "--deep" in options["Size of the box"]
    assert "--colour" in options["Looks"]
    assert "--loud" in options["Options"]
    assert "Describe a box." in panels[0]


def test_two_groups_with_an_option_of_the_same_name_are_refused() -> None:
    def command(size: Size, clash: Clash) -> None: ...

    command.__annotations__ = {"size": Size, "clash": Clash}
    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        expand_options(command)
