"""`sagelift features`: compact, materialize, status."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands import materialize as materialize_command
from sagelift.commands.console import AsJson, current_settings, print_json, say

if TYPE_CHECKING:
    from feature_repo.monitoring.canary import CanaryDrift
    from feature_repo.monitoring.watch import ViewStatus

app = typer.Typer(help="The feature store: materialize, status, compact.", no_args_is_help=True)

_View = Annotated[list[str] | None, typer.Option("--view", help="Only this view; give it again for more.")]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no duration: write a number and s, m, h or d, such as 90m")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def _limits(texts: list[str]) -> dict[str, float]:
    limits = {}
    for text in texts:
        found = re.fullmatch(r"(\w+)=(0?\.\d+|[01](?:\.0*)?)", text)
        if not found:
            raise typer.BadParameter(f"{text!r} is no limit: write a feature and a share, such as title=0.01")
        limits[found[1]] = float(found[2])
    return limits


@app.command("status")
def features_status(
    view: _View = None,
    max_age: Annotated[str | None, typer.Option(help="Oldest newest event of a view, such as 1h.")] = None,
    max_empty: Annotated[
        list[str] | None, typer.Option(help="FEATURE=SHARE of products that may lack it; give it again for more.")
    ] = None,
    norm_tolerance: Annotated[float | None, typer.Option(min=0, help="How far vectors' lengths may be off 1.")] = None,
    canary: Annotated[
        str | None, typer.Option(metavar="OLD:NEW", help="Compare two model versions on a canary set of products.")
    ] = None,
    canary_ids: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The set: a file with a product id in each line.")
    ] = None,
    max_centroid_shift: Annotated[
        float | None, typer.Option(min=0, max=2, help="How far the canary's centroid may move: 1 - cosine.")
    ] = None,
    min_overlap: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of nearest neighbours that the canary must keep.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, too.")] = None,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print the figures as Prometheus' text.")] = False,
    as_json: AsJson = False,
) -> None:
    """Freshness by event time, ages, empty features, vector lengths, rows; with --canary what a new model changes.

    Exit code 1 when a limit is passed.
    """
    oldest, emptiest, versions = _duration(max_age), _limits(max_empty or []), _versions(canary)
    if versions is None and (canary_ids, max_centroid_shift, min_overlap) != (None, None, None):
        raise typer.BadParameter("--canary-ids, --max-centroid-shift and --min-overlap need --canary OLD:NEW")

    from datetime import UTC

    from feature_repo.monitoring.canary import CanaryLimits, compare
    from feature_repo.monitoring.watch import Thresholds, findings, to_prometheus, watch
    from sagelift.services import Services

    of_canary = CanaryLimits(max_centroid_shift=max_centroid_shift, min_overlap=min_overlap)
    limits = Thresholds(max_age=oldest, max_empty=emptiest, norm_tolerance=norm_tolerance, canary=of_canary)
    now = datetime.now(UTC)
    with Services(current_settings()) as services:
        statuses = watch(services.features, now=now, views=view or ())
        drift = compare(services.features, *versions, _ids(canary_ids)) if versions else None
    found = findings(statuses, limits, drift)
    if html:
        from sagelift.observability.feature_page import write_page

        try:
            write_page(html, statuses, found, drift, now)
        except OSError as error:
            raise typer.BadParameter(f"{html} cannot be written: {error}") from None
    if as_json:
        print_json({"views": statuses, "canary": drift, "findings": found})
    elif prometheus:
        typer.echo(to_prometheus(statuses, drift), nl=False)
    else:
        _print_statuses(statuses, drift)
    for finding in found:
        say(f"sagelift: {finding}")
    raise typer.Exit(1 if found else 0)


def _versions(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    old, colon, new = text.partition(":")
    if not (old and colon and new):
        raise typer.BadParameter(f"{text!r} names no two model versions: write OLD:NEW")
    return old, new


def _ids(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _print_statuses(statuses: list[ViewStatus], canary: CanaryDrift | None) -> None:
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
    if canary:
        typer.echo(
            f"{canary.old} to {canary.new}: {canary.products:,} products keep {canary.overlap:.1%} of their "
            f"{canary.neighbours} nearest neighbours, one in ten at most {canary.overlap_p10:.0%} "
            f"(chance: {canary.overlap_by_chance:.1%}); the centroid moved by {canary.centroid_shift:.3f}"
        )


@app.command("compact")
def features_compact(as_json: AsJson = False) -> None:
    """Merge the history's many small files into few; the consumers may go on meanwhile."""
    from sagelift.services import Services

    with Services(current_settings()) as services:
        merged = services.features.compact()
    if as_json:
        return print_json(merged)
    for view, parts in merged.items():
        typer.echo(f"{view:<32} {parts} parts merged")


app.command("materialize")(materialize_command.features_materialize)
