"""`sagelift experiment schedule | cancel | guard | tick`: scheduled commands, and commands for a scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from feature_repo.times import to_microseconds
from sagelift.commands.console import AsJson, print_json
from sagelift.commands.experiment.options import TIME_FORMS, Actor, Key, Reason, experiment_store
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_time, time_text

if TYPE_CHECKING:
    from experiments.store import ExperimentStore
    from sagelift.guardrails import GuardrailResult

_OnBreach = Annotated[
    Literal["hold", "pause", "stop", "report"],
    typer.Option(help="What to do after a breach: hold (stop the ramp), pause, stop, or report only."),
]


@dataclass(frozen=True)
class GuardOptions:
    """How guardrails are judged."""

    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            help="YAML file that declares the metrics. Default: the published metrics, or else a shop's usual ones.",
        ),
    ] = None
    planned_units: Annotated[
        int | None,
        typer.Option(
            min=1, help="Planned number of units of control and one treatment. Default: that of the config, or 100000."
        ),
    ] = None
    window_days: Annotated[
        float | None,
        typer.Option(min=0.01, help="Number of days after first exposure that count. Default: that of the config."),
    ] = None


def schedule(
    key: Annotated[str | None, typer.Argument(help="Key of the experiment. Without it, list all.")] = None,
    action: Annotated[
        Literal["start", "pause", "ramp", "stop"] | None, typer.Argument(help="What to do. Without it, list.")
    ] = None,
    at: Annotated[str | None, typer.Option(help=f"When: {TIME_FORMS}.")] = None,
    coverage: Annotated[int | None, typer.Option(help="Coverage of a ramp, in 1/10,000.")] = None,
    actor: Annotated[str, typer.Option(help="Who makes the change.", envvar="USER")] = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Schedule a command, or list the scheduled ones. `sagelift experiment tick` runs them when they are due."""
    with experiment_store() as store:
        if key is not None and action is not None:
            due_at = to_microseconds(parse_time(at or "", "--at"))
            number = store.schedule(key, action, due_at, coverage=coverage, actor=actor, reason=reason)
            typer.echo(f"{number}: {action} of {key} at {time_text(due_at)}")
            return
        rows = store.scheduled(key)
    if as_json:
        return print_json(rows)
    for row in rows:
        what = f"{row.action} {row.coverage}" if row.coverage is not None else row.action
        typer.echo(
            f"{row.id:>5} {time_text(row.at)}  {row.experiment:<32} {what:<12} {row.result or 'waits'} {row.detail}"
        )


def cancel(
    number: Annotated[int, typer.Argument(help="Number that `sagelift experiment schedule` prints.")],
    actor: Actor,
    reason: Reason = "",
) -> None:
    """Cancel a scheduled command."""
    with experiment_store() as store:
        store.cancel(number, actor=actor, reason=reason)
    typer.echo(f"{number} is cancelled")


@expand_options
def guard(key: Key, options: GuardOptions, on_breach: _OnBreach = "report", as_json: AsJson = False) -> None:
    """Judge an experiment's guardrails by the rule of reports, with the sequential test, and act on a breach.

    Exit code 1 after a breach.
    """
    with experiment_store() as store:
        results = _judge(store, [key], options, on_breach)
    if as_json:
        print_json([result.evidence for result in results])
    else:
        for result in results:
            typer.echo(str(result))
    raise typer.Exit(1 if _has_breach(results) else 0)


@expand_options
def tick(options: GuardOptions, on_breach: _OnBreach = "hold", as_json: AsJson = False) -> None:
    """Judge the guardrails of all running experiments, then run the due commands.

    Run it every minute. The guardrails come first, so that no ramp runs after a breach. Exit code 1 when a
    guardrail is breached or a command fails.
    """
    with experiment_store() as store:
        results = _judge(store, None, options, on_breach)
        ran = store.run_due()
    if as_json:
        print_json({"guardrails": [result.evidence for result in results], "ran": ran})
    else:
        for result in results:
            typer.echo(str(result))
        for each in ran:
            typer.echo(f"{each.command.action} of {each.command.experiment}: {each.error or 'done'}")
    raise typer.Exit(1 if _has_breach(results) or any(each.error for each in ran) else 0)


def _judge(
    store: ExperimentStore,
    keys: list[str] | None,
    options: GuardOptions,
    on_breach: Literal["hold", "pause", "stop", "report"],
) -> list[GuardrailResult]:
    from datetime import timedelta

    from sagelift.guardrails import judge_running

    return judge_running(
        store,
        keys,
        metrics_file=options.metrics,
        planned_units=options.planned_units,
        window=None if options.window_days is None else timedelta(days=options.window_days),
        on_breach=None if on_breach == "report" else on_breach,
    )


def _has_breach(results: list[GuardrailResult]) -> bool:
    return any(result.verdict == "breached" for result in results)
