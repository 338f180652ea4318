"""Groups of options that `sagelift analyze`, `report`, `simulate` and `plan` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from sagelift.commands.analysis_texts import parse_filter, parse_share, parse_split, parse_whole_numbers

if TYPE_CHECKING:
    from analysis.sources.user_rows import UserRows

_STATISTICS = "Statistics"

Alpha = Annotated[
    float,
    typer.Option(help="Level of the tests, and 1 - coverage of the intervals.", rich_help_panel=_STATISTICS),
]
Interval = Annotated[
    Literal["fieller", "delta", "log"],
    typer.Option(help="Method for the interval of the relative lift.", rich_help_panel=_STATISTICS),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.", rich_help_panel=_STATISTICS)]
Share = Annotated[
    float, typer.Option(help="Share of users in the treatment arm, from 0 to 1.", rich_help_panel=_STATISTICS)
]


@dataclass(frozen=True)
class TableOptions:
    """The table with one row per user."""

    panel: ClassVar[str] = "Data"

    table: Annotated[
        str,
        typer.Argument(
            help="Parquet, CSV, Arrow or DuckDB file (or a glob of files), a SELECT over such files, or with "
            "--database the name of a table."
        ),
    ]
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only these users: country=DE,FR, country!=US or age>=18; repeatable. Leaves out NULL."),
    ] = None
    database: Annotated[str | None, typer.Option(help="SQLAlchemy URL of the database that holds the table.")] = None
    file_table: Annotated[str | None, typer.Option("--table", help="Name of the table in a DuckDB file.")] = None

    def source(self, **columns: Any) -> UserRows:
        """Return the source of the table's rows.

        Args:
            columns: Names of columns and settings, as `analysis.sources.user_rows.UserRows` takes them.

        Raises:
            typer.BadParameter: A filter or the URL of the database cannot be read.
        """
        filters = tuple(map(parse_filter, self.where or ()))
        if self.database is None:
            from analysis.sources.user_table import UserTable

            return UserTable(self.table, table=self.file_table, where=filters, **columns)
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        from analysis.sources.sql_table import SqlTable

        try:
            engine = create_engine(self.database)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            # The URL may hold a password, so the message does not repeat it.
            raise typer.BadParameter(
                f"no engine for this URL ({error.__class__.__name__}).", param_hint="--database"
            ) from None
        return SqlTable(engine, self.table, where=filters, **columns)


@dataclass(frozen=True)
class ArmOptions:
    """The arms to compare."""

    control: Annotated[str, typer.Option(help="Control arm, as named in the data.")]
    treatment: Annotated[
        list[str] | None,
        typer.Option(help="Treatment arm; repeatable. Default: all arms except the control, one report each."),
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Planned split of the units: 0=90%,1=10%. Default: equal shares.")
    ] = None

    def expected_split(self) -> dict[str, float] | None:
        """The planned weight of each arm; None for equal shares."""
        return parse_split(self.split)


@dataclass(frozen=True)
class StatisticsOptions:
    """How metrics are tested."""

    panel: ClassVar[str] = _STATISTICS

    alpha: Alpha = 0.05
    interval: Interval = "fieller"
    precision: Annotated[
        str, typer.Option(help="Half-width of the lift's interval to reach. The report says how long that takes.")
    ] = "2%"
    equivalence: Annotated[
        str | None,
        typer.Option(help="Test each metric for a lift within plus or minus this margin (TOST): 2%. Default: no test."),
    ] = None
    prior: Annotated[
        str | None,
        typer.Option(
            help="Standard deviation of a normal prior around 0 for each lift: 5%. Default: no Bayesian posterior."
        ),
    ] = None
    bootstrap: Annotated[
        int,
        typer.Option(
            help="Number of resamples of the bootstrap and the permutation test; 0 is none. Reads the values of each "
            "unit."
        ),
    ] = 0
    seed: Seed = 0

    def arguments(self) -> dict[str, Any]:
        """The arguments of `analysis.report.analyze_arms`."""
        from analysis.bayes import Prior

        return {
            "alpha": self.alpha,
            "interval": self.interval,
            "precision": parse_share(self.precision, "--precision"),
            "equivalence": None if self.equivalence is None else parse_share(self.equivalence, "--equivalence"),
            "prior": None if self.prior is None else Prior(0.0, parse_share(self.prior, "--prior")),
            "resamples": self.bootstrap,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class MonitoringOptions:
    """How results are judged before the planned size is reached."""

    panel: ClassVar[str] = "Sequential test"

    planned_units: Annotated[
        int | None,
        typer.Option(
            help="Planned number of units of both arms. Until it is reached, confidence sequences decide; with "
            "--spending, boundaries. Default: a fixed sample."
        ),
    ] = None
    spending: Annotated[
        str | None,
        typer.Option(help="Group-sequential design: how it spends alpha. obrien-fleming, pocock, power=3 or hsd=-4."),
    ] = None
    earlier_looks: Annotated[
        str | None, typer.Option(help="Number of units of both arms at each earlier look of the design: 8000,17000.")
    ] = None
    last_look: Annotated[
        bool, typer.Option("--last-look", help="This is the last look, for any result: spend all of alpha.")
    ] = False

    def arguments(self) -> dict[str, Any]:
        """The arguments of `analysis.report.analyze_arms`: planned units, or a look of a group-sequential design.

        Raises:
            typer.BadParameter: An option needs another one, or cannot be read.
        """
        from analysis.sequential.design import Design

        if self.spending is None:
            if self.earlier_looks is not None or self.last_look:
                raise typer.BadParameter(
                    "it needs --spending, for example obrien-fleming.", param_hint="--earlier-looks, --last-look"
                )
            return {"planned_units": self.planned_units}
        if self.planned_units is None:
            raise typer.BadParameter("it needs --planned-units, the size at the last look.", param_hint="--spending")
        earlier = parse_whole_numbers(self.earlier_looks or "", "--earlier-looks", "8000,17000")
        return {"design": Design(self.planned_units, earlier, self.spending, self.last_look)}


@dataclass(frozen=True)
class OutputOptions:
    """How a result is printed."""

    panel: ClassVar[str] = "Output"

    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False


@dataclass(frozen=True)
class ReportOutput(OutputOptions):
    """How reports are printed and written."""

    html: Annotated[
        Path | None, typer.Option(help="HTML page to write. With several reports, the arm is added to the name.")
    ] = None
