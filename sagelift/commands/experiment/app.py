"""`sagelift experiment ...`: experiments as files, the life cycle, the schedule, guardrails, API keys, the schema.

The steps of the life cycle have the names that they have in Python (`ExperimentStore`) and over REST.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.experiment.keys import key_app
from sagelift.commands.experiment.layers_metrics import layer_app, metric_app
from sagelift.commands.experiment.options import Actor, Reason, experiment_store
from sagelift.commands.experiment.units import unit_app
from sagelift.commands.times import moment, time_text

if TYPE_CHECKING:
    from experiments.lifecycle import Action, Outcome
    from experiments.store import ExperimentStore

app = typer.Typer(help="Experiments: files, life cycle, schedule, guardrails, API keys.", no_args_is_help=True)
app.add_typer(key_app, name="key")
app.add_typer(layer_app, name="layer")
app.add_typer(metric_app, name="metric")
app.add_typer(unit_app, name="unit")

Key = Annotated[str, typer.Argument(help="The experiment's key.")]
_File = Annotated[Path, typer.Argument(help="The experiment as YAML.")]
_Paths = Annotated[list[Path], typer.Argument(help="YAML files, or folders of them.")]
_Coverage = Annotated[int, typer.Argument(min=0, max=10_000, help="The enrolled share, in 1/10,000.")]


# ------------------------------------------------------------------------------------------------------------ files


@app.command()
def validate(paths: _Paths, as_json: AsJson = False) -> None:
    """Check experiments in files, each alone and all together. Exit code 1 when something is wrong."""
    from experiments.files import experiment_files, read

    configs, faults = read(experiment_files(paths))
    if as_json:
        print_json({"experiments": [config.key for config in configs.values()], "faults": faults})
    else:
        for fault in faults:
            typer.echo(f"{fault.file}: {fault.message}")
        say(f"{len(configs)} experiments, {len(faults)} faults")
    raise typer.Exit(1 if faults else 0)


@app.command()
def diff(paths: _Paths, as_json: AsJson = False) -> None:
    """Say how files differ from what is published, and which command takes it. Exit code 1 when they differ."""
    from experiments.config import load_yaml
    from experiments.files import experiment_files
    from experiments.lifecycle import LIVE, changes
    from experiments.store import now_us

    configs = [load_yaml(path) for path in experiment_files(paths)]
    found: list[dict[str, Any]] = []
    with experiment_store() as store:
        known = {summary.key: summary for summary in store.experiments()}
        for config in configs:
            summary = known.get(config.key)
            versions = store.versions(config.key) if summary else []
            if not versions:
                found.append(
                    {"key": config.key, "state": summary and summary.state, "command": "publish", "changes": []}
                )
                continue
            differences = changes(versions[-1].config, config, now_us())
            state = summary.state if summary else None
            is_unsafe = any(change.unsafe for change in differences)
            needs_phase = state == "stopped" or (state in LIVE and is_unsafe)
            command = ("new-phase" if needs_phase else "publish") if differences else None
            found.append({"key": config.key, "state": state, "command": command, "changes": list(differences)})
    if as_json:
        print_json(found)
    else:
        for row in found:
            typer.echo(f"{row['key']} ({row['state'] or 'new'}): {row['command'] or 'as published'}")
            for change in row["changes"]:
                unsafe = f"   unsafe: {change.unsafe}" if change.unsafe else ""
                typer.echo(f"  {change.field}: {change.old!r} -> {change.new!r}{unsafe}")
    raise typer.Exit(1 if any(row["command"] for row in found) else 0)


@app.command()
def publish(file: _File, actor: Actor, reason: Reason = "") -> None:
    """Publish an experiment from a file; it is created when it is new. A live one takes safe edits only."""
    from experiments.config import load_yaml

    config = load_yaml(file)
    with experiment_store() as store:
        version = store.publish(config, actor=actor, reason=reason, create=True)
    typer.echo(f"{config.key} version {version}")


@app.command("new-phase")
def new_phase(file: _File, actor: Actor, reason: Reason) -> None:
    """Begin a new phase from a file with a new salt: for edits that would move units."""
    from experiments.config import load_yaml

    config = load_yaml(file)
    with experiment_store() as store:
        version = store.new_phase(config, actor=actor, reason=reason)
    typer.echo(f"{config.key} version {version}, a new phase")


@app.command()
def schema() -> None:
    """Print the JSON Schema of an experiment's file (docs/experiment.schema.json)."""
    from experiments.files import json_schema

    print_json(json_schema())


# ------------------------------------------------------------------------------------------------------- life cycle


def _step(name: str, state: str, help: str) -> None:
    @app.command(name, help=help)
    def step(key: Key, actor: Actor, reason: Reason) -> None:
        with experiment_store() as store:
            store.transition(key, cast(Any, state), actor=actor, reason=reason)
        typer.echo(f"{key} is {state}")


_step("submit", "in_review", "Ask for a review of what was published.")
_step("revise", "draft", "Take it back from review.")
_step("start", "running", "Run a draft, what is in review, or what was paused.")
_step("pause", "paused", "Keep serving the arms and enrol no one.")
_step("stop", "stopped", "Serve control to everyone.")
_step("archive", "archived", "Put away a draft, or what is decided.")


@app.command()
def decide(
    key: Key,
    outcome: Annotated[str, typer.Argument(help="ship, roll_back or inconclusive.")],
    actor: Actor,
    reason: Reason,
) -> None:
    """Say how a stopped experiment ended."""
    with experiment_store() as store:
        store.decide(key, _outcome(outcome), actor=actor, reason=reason)
    typer.echo(f"{key} is decided: {outcome}")


@app.command("set", hidden=True)
def set_state(
    key: Key,
    state: Annotated[str, typer.Argument(help="running, paused, stopped or decided.")],
    actor: Actor,
    reason: Reason,
    outcome: Annotated[str | None, typer.Option(help="ship, roll_back or inconclusive, when decided.")] = None,
) -> None:
    """The steps by the name of the state."""
    from typing import get_args

    from experiments.config import State

    if state not in get_args(State):
        raise typer.BadParameter(f"{state!r} is none of {', '.join(get_args(State))}")
    with experiment_store() as store:
        ending = None if outcome is None else _outcome(outcome)
        store.transition(key, cast(State, state), actor=actor, reason=reason, outcome=ending)
    typer.echo(f"{key} is {state}")


@app.command()
def ramp(key: Key, coverage: _Coverage, actor: Actor, reason: Reason) -> None:
    """Raise the coverage of a live experiment."""
    with experiment_store() as store:
        version = store.ramp(key, coverage, actor=actor, reason=reason)
    typer.echo(f"{key} version {version}, coverage {coverage}")


@app.command()
def hold(key: Key, actor: Actor, reason: Reason) -> None:
    """Stop a ramp where it stands: who is enrolled stays, nobody follows."""
    with experiment_store() as store:
        version = store.hold(key, actor=actor, reason=reason)
    typer.echo(f"{key} version {version}")


@app.command()
def override(
    key: Key,
    unit: Annotated[str, typer.Argument(help="The unit's id.")],
    arm: Annotated[str, typer.Argument(help="The arm that it gets.")],
    actor: Actor,
    reason: Reason,
    until: Annotated[str, typer.Option(help="2026-05-04T12:30Z, or 2026-05-04T14:30+02:00.")],
) -> None:
    """Force an arm upon one unit until a time, for a test by hand; it is in no analysis. No command lists them."""
    from experiments.config import Override

    end = moment(until, "--until")
    with experiment_store() as store:
        store.force_arm(key, Override(unit, arm, end), actor=actor, reason=reason)
    typer.echo(f"{key} serves {arm} until {time_text(end)}")


@app.command("clear-override")
def clear_override(
    key: Key, unit: Annotated[str, typer.Argument(help="The unit's id.")], actor: Actor, reason: Reason
) -> None:
    """Force no arm upon a unit any more."""
    with experiment_store() as store:
        cleared = store.clear_arm(key, unit, actor=actor, reason=reason)
    typer.echo("cleared" if cleared else "no arm was forced")


@app.command("list")
def list_experiments(as_json: AsJson = False) -> None:
    """List all experiments and where each stands."""
    with experiment_store() as store:
        known = store.experiments()
        arms = {e.config.key: [arm.key for arm in e.config.arms] for e in store.load()}
    found = [
        {"key": e.key, "state": e.state, "version": e.version, "phase": e.phase, "arms": arms.get(e.key, [])}
        for e in known
    ]
    if as_json:
        return print_json(found)
    for row in found:
        told = f"{row['key']:<32} {row['state']:<9} version {row['version'] or '-'}"
        typer.echo(told + (f"  arms {', '.join(arms[row['key']])}" if row["key"] in arms else ""))


@app.command()
def show(
    key: Key,
    version: Annotated[int | None, typer.Option(min=1, help="Of that number; without it, the latest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a published config as YAML, such as one that was ramped since, for the file that the team reviews."""
    from experiments.files import to_yaml

    with experiment_store() as store:
        found = store.version(key, version)
    if as_json:
        return print_json(found)
    typer.echo(to_yaml(found.config), nl=False)


@app.command()
def history(key: Key, as_json: AsJson = False) -> None:
    """List what happened to an experiment, oldest first."""
    with experiment_store() as store:
        rows = store.history(key)
    if as_json:
        return print_json(rows)
    for row in rows:
        typer.echo(f"{time_text(row.at)}  {row.state:<9} version {row.version or '-'}  {row.actor}: {row.reason}")


@app.command()
def audit(
    subject: Annotated[
        str | None, typer.Option(help="An experiment's key, an API key's id, or unit_token: erasures.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List who did what, newest first."""
    with experiment_store() as store:
        rows = store.audit(subject, limit=limit)
    if as_json:
        return print_json(rows)
    for row in rows:
        typer.echo(
            f"{time_text(row.at)}  {row.action:<10} {row.subject:<32} {row.actor}: {row.reason}  {row.detail or ''}"
        )


# --------------------------------------------------------------------------------------------- schedule, guardrails


@app.command()
def schedule(
    key: Annotated[str | None, typer.Argument(help="The experiment's key; without it, all.")] = None,
    action: Annotated[str | None, typer.Argument(help="start, pause, ramp or stop; without it, list.")] = None,
    at: Annotated[str | None, typer.Option(help="2026-05-04T12:30Z, or 2026-05-04T14:30+02:00.")] = None,
    coverage: Annotated[int | None, typer.Option(help="Of a ramp, in 1/10,000.")] = None,
    actor: Annotated[str, typer.Option(help="Who does this.", envvar="USER")] = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Keep a command for later, or list what is kept. `sagelift experiment tick` carries it out."""
    from typing import get_args

    from experiments.lifecycle import Action

    with experiment_store() as store:
        if key is not None and action is not None:
            if action not in get_args(Action):
                raise typer.BadParameter(f"{action!r} is none of {', '.join(get_args(Action))}")
            when = moment(at)
            made = store.schedule(key, cast("Action", action), when, coverage=coverage, actor=actor, reason=reason)
            typer.echo(f"{made}: {action} of {key} at {time_text(when)}")
            return
        rows = store.scheduled(key)
    if as_json:
        return print_json(rows)
    for row in rows:
        what = f"{row.action} {row.coverage}" if row.coverage is not None else row.action
        typer.echo(
            f"{row.id:>5} {time_text(row.at)}  {row.experiment:<32} {what:<12} {row.result or 'waits'} {row.detail}"
        )


@app.command()
def cancel(
    number: Annotated[int, typer.Argument(help="As `sagelift experiment schedule` prints it.")],
    actor: Actor,
    reason: Reason = "",
) -> None:
    """Take a scheduled command back."""
    with experiment_store() as store:
        store.cancel(number, actor=actor, reason=reason)
    typer.echo(f"{number} is cancelled")


_Metrics = Annotated[
    Path | None,
    typer.Option(
        "--metrics", help="Metrics declared in YAML; without it, those that are published, else a shop's own."
    ),
]
_OnBreach = Annotated[str, typer.Option(help="hold (stop the ramp), pause, stop, or report only.")]
_Planned = Annotated[
    int, typer.Option(min=1, help="Units of control and treatment that are planned; fixed at the start.")
]
_Window = Annotated[float, typer.Option(min=0.01, help="Days after first exposure that count.")]


@app.command()
def guard(
    key: Key,
    metrics: _Metrics = None,
    on_breach: _OnBreach = "report",
    planned_units: _Planned = 100_000,
    window_days: _Window = 14.0,
    as_json: AsJson = False,
) -> None:
    """Judge an experiment's guardrails by the sequential test, and act on a breach. Exit code 1 when there is one."""
    with experiment_store() as store:
        found = _guard(store, [key], metrics, on_breach, planned_units, window_days)
    if as_json:
        print_json([each.evidence for each in found])
    else:
        for each in found:
            typer.echo(str(each))
    raise typer.Exit(1 if any(each.verdict == "breached" for each in found) else 0)


@app.command()
def tick(
    metrics: _Metrics = None,
    on_breach: _OnBreach = "hold",
    planned_units: _Planned = 100_000,
    window_days: _Window = 14.0,
    as_json: AsJson = False,
) -> None:
    """For a scheduler, every minute or so: judge the guardrails of what runs, then carry out what is due.

    The guardrails come first, so that a ramp that was due is not made over a breach. Exit code 1 when a guardrail is
    breached or a command could not be carried out.
    """
    with experiment_store() as store:
        found = _guard(store, None, metrics, on_breach, planned_units, window_days)
        ran = store.run_due()
    if as_json:
        print_json({"guardrails": [each.evidence for each in found], "ran": ran})
    else:
        for each in found:
            typer.echo(str(each))
        for done in ran:
            typer.echo(f"{done.command.action} of {done.command.experiment}: {done.error or 'done'}")
    breached = any(each.verdict == "breached" for each in found)
    raise typer.Exit(1 if breached or any(done.error for done in ran) else 0)


def _guard(
    store: ExperimentStore, keys: list[str] | None, metrics: Path | None, on_breach: str, planned: int, days: float
) -> list[Any]:
    from analysis.config import declared_metrics, load_metrics
    from analysis.metrics import shop_metrics
    from experiments.errors import UnknownExperimentError
    from sagelift.guardrails import act, judge

    if on_breach not in ("hold", "pause", "stop", "report"):
        raise typer.BadParameter(f"{on_breach!r} is none of hold, pause, stop, report", param_hint="--on-breach")
    published_metrics = [metric.definition for metric in store.metrics()]
    if metrics:
        declared = load_metrics(metrics).metrics
    else:
        declared = declared_metrics(published_metrics) if published_metrics else shop_metrics()
    running = {published.config.key: published for published in store.load(("running",))}
    if keys is not None and (missing := [key for key in keys if key not in running]):
        raise UnknownExperimentError(f"no running experiment {missing[0]!r}; `sagelift experiment list` lists them.")
    found: list[Any] = []
    for published in running.values() if keys is None else [running[key] for key in keys]:
        judged = judge(store.engine, published, declared, planned_units=planned, window=timedelta(days=days))
        found += judged
        if on_breach != "report":
            act(store, judged, cast(Literal["hold", "pause", "stop"], on_breach))
    return found


# ------------------------------------------------------------------------------------------------------------ schema


@app.command()
def migrate(
    revision: Annotated[str, typer.Option(help="head, or a number such as 0001 to go back to it.")] = "head",
) -> None:
    """Bring the database to this program's revision. Take a backup first: going back drops what is newer."""
    from experiments.store import ExperimentStore
    from sagelift.services import Services

    with Services(current_settings()) as services:
        services.settings.state.mkdir(parents=True, exist_ok=True)
        before, after = ExperimentStore(services.database).migrate(revision)
    typer.echo(f"revision {after or 'none'}" + ("" if before == after else f", was {before or 'none'}"))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the REST interface (docs/experiments-openapi.json)."""
    from sqlalchemy import create_engine

    from experiments.client import Assigner
    from experiments.keys import KeyRing
    from experiments.rest.app import create_app
    from experiments.store import ExperimentStore

    store = ExperimentStore(create_engine("sqlite://"))
    print_json(create_app(store, Assigner(store.load), KeyRing(list)).openapi())


def _outcome(text: str) -> Outcome:
    from typing import get_args

    from experiments.lifecycle import Outcome

    if text not in get_args(Outcome):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(get_args(Outcome))}")
    return cast("Outcome", text)
