"""`sagelift features`: compact, materialize, status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.materialize import ViewOption, materialize
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_duration

if TYPE_CHECKING:
    from feature_repo.monitoring.canary import CanaryDrift
    from feature_repo.monitoring.findings import Thresholds
    from feature_repo.monitoring.watch import ViewStatus

app = typer.Typer(help="Feature store: materialize the history, show the status, compact files.", no_args_is_help=True)


@dataclass(frozen=True)
class LimitOptions:
    """Limits of `sagelift features status`. Exit code 1 if a limit is exceeded."""

    panel: ClassVar[str] = "Limits"

    max_age: Annotated[
        str | None, typer.Option(help="Largest age of a view's newest event, such as 1h. Default: no limit.")
    ] = None
    max_empty: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE=SHARE", help="Largest share of products that may lack a feature: title=0.01; repeatable."
        ),
    ] = None
    norm_tolerance: Annotated[
        float | None, typer.Option(min=0, help="How far the length of a vector may be from 1. Default: no limit.")
    ] = None


@dataclass(frozen=True)
class CanaryOptions:
    """The comparison of two model versions."""

    panel: ClassVar[str] = "Canary"

    canary: Annotated[
        str | None, typer.Option(metavar="OLD:NEW", help="Compare two model versions on a canary set of products.")
    ] = None
    canary_ids: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="File with one product id per line: the canary set. Default: a sample."
        ),
    ] = None
    max_centroid_shift: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="Limit of the shift of the canary's centroid: 1 - cosine. Default: no limit."),
    ] = None
    min_overlap: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Smallest share of nearest neighbours to keep. Default: no limit."),
    ] = None

    def versions(self) -> tuple[str, str] | None:
        """Return the two model versions, or None without a comparison.

        Raises:
            typer.BadParameter: `canary` is not OLD:NEW, or an option needs it.
        """
        if self.canary is None:
            if (self.canary_ids, self.max_centroid_shift, self.min_overlap) != (None, None, None):
                raise typer.BadParameter("--canary-ids, --max-centroid-shift and --min-overlap need --canary OLD:NEW")
            return None
        old, colon, new = self.canary.partition(":")
        if not (old and colon and new):
            raise typer.BadParameter(
                f"{self.canary!r} does not name two model versions; write OLD:NEW", param_hint="--canary"
            )
        return old, new


@dataclass(frozen=True)
class StatusOutput:
    """Where the status goes."""

    panel: ClassVar[str] = "Output"

    html: Annotated[Path | None, typer.Option(help="Also write a page with plots to this file.")] = None
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print the figures in Prometheus' text format.")] = (
        False
    )
    as_json: AsJson = False


@app.command()
@expand_options
def status(limits: LimitOptions, canary: CanaryOptions, output: StatusOutput, view: ViewOption = None) -> None:
    """Show freshness by event time, ages, empty features, vector lengths and rows. Compare two models with --canary.

    Exit code 1 when a limit is exceeded.
    """
    thresholds, versions, ids = _thresholds(limits, canary), canary.versions(), _ids(canary.canary_ids)

    from feature_repo.monitoring.canary import compare
    from feature_repo.monitoring.findings import findings
    from feature_repo.monitoring.watch import watch
    from sagelift.services import Services

    now = datetime.now(UTC)
    with Services(current_settings()) as services:
        statuses = watch(services.features, now=now, views=view or ())
        drift = compare(services.features, *versions, ids) if versions else None
    passed = findings(statuses, thresholds, drift)
    if output.html:
        _write_page(output.html, statuses, passed, drift, now)
    _print(output, statuses, passed, drift)
    for finding in passed:
        say(f"sagelift: {finding}")
    raise typer.Exit(1 if passed else 0)


@app.command()
def compact(as_json: AsJson = False) -> None:
    """Merge the many small files of the history. The consumers may keep running."""
    from sagelift.services import Services

    with Services(current_settings()) as services:
        merged = services.features.compact()
    if as_json:
        return print_json(merged)
    for view, parts in merged.items():
        typer.echo(f"{view:<32} {parts} parts merged")


app.command()(materialize)


def _thresholds(limits: LimitOptions, canary: CanaryOptions) -> Thresholds:
    max_age = None if limits.max_age is None else parse_duration(limits.max_age, "--max-age")
    max_empty = dict(map(_empty_limit, limits.max_empty or []))

    from feature_repo.monitoring.canary import CanaryLimits
    from feature_repo.monitoring.findings import Thresholds

    return Thresholds(
        max_age=max_age,
        max_empty=max_empty,
        norm_tolerance=limits.norm_tolerance,
        canary=CanaryLimits(max_centroid_shift=canary.max_centroid_shift, min_overlap=canary.min_overlap),
    )


def _empty_limit(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(\w+)=(0?\.\d+|[01](?:\.0*)?)", text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not a limit; write a feature and a share from 0 to 1, such as title=0.01",
            param_hint="--max-empty",
        )
    return match[1], float(match[2])


def _ids(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--canary-ids") from None
    return [line.strip() for line in lines if line.strip()]


def _write_page(
    path: Path, statuses: list[ViewStatus], findings: list[str], drift: CanaryDrift | None, now: datetime
) -> None:
    from sagelift.observability.feature_page import write_page

    try:
        write_page(path, statuses, findings, drift, now)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error}", param_hint="--html") from None


def _print(output: StatusOutput, statuses: list[ViewStatus], findings: list[str], drift: CanaryDrift | None) -> None:
    from feature_repo.monitoring.prometheus import to_prometheus

    if output.as_json:
        print_json({"views": statuses, "canary": drift, "findings": findings})
    elif output.prometheus:
        typer.echo(to_prometheus(statuses, drift), nl=False)
    else:
        _print_statuses(statuses)
        if drift:
            _print_drift(drift)


def _print_statuses(statuses: list[ViewStatus]) -> None:
    from sagelift.observability.feature_page import age

    typer.echo(
        f"{'view':<32}{'live':>11}{'deleted':>9}{'online':>11}{'history':>12}{'parts':>7}"
        f"{'behind':>8}{'p50':>8}{'p90':>8}{'p99':>8}"
    )
    for s in statuses:
        counts = f"{s.products:>11,}{s.deleted:>9,}{s.online_rows:>11,}{s.history_rows:>12,}{s.parts:>7,}"
        ages = "".join(f"{age(seconds):>8}" for seconds in (s.age_s, s.age_p50_s, s.age_p90_s, s.age_p99_s))
        typer.echo(f"{s.view:<32}{counts}{ages}")
    for s in statuses:
        if empty := {name: rate for name, rate in s.empty_rates.items() if rate}:
            typer.echo(f"{s.view}: empty in " + ", ".join(f"{name} {rate:.1%}" for name, rate in empty.items()))
        if s.norms:
            typer.echo(f"{s.view}: vectors of length {s.norms.smallest:.4f} to {s.norms.largest:.4f}")


def _print_drift(drift: CanaryDrift) -> None:
    typer.echo(
        f"{drift.old} to {drift.new}: {drift.products:,} products keep {drift.overlap:.1%} of their "
        f"{drift.neighbours} nearest neighbours; one in ten keeps at most {drift.overlap_p10:.0%} "
        f"(by chance: {drift.overlap_by_chance:.1%}); the centroid moved by {drift.centroid_shift:.3f}"
    )
