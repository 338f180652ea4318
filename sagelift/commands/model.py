"""`sagelift model`: train, evaluate, export, release."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.engines import EngineName, EngineOption, MasterOption, embedding_elsewhere
from sagelift.commands.times import instant

if TYPE_CHECKING:
    from inference.evaluate import Evaluation
    from inference.train import TrainConfig
    from sagelift.services import Services
    from streaming.release.release import Released

app = typer.Typer(help="ItemSage: train, evaluate, export, release, list.", no_args_is_help=True)


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_Run = Annotated[str | None, typer.Argument(help="A run's name or folder; without it, the newest.")]


@app.command("train")
def train(
    config: Annotated[
        Path | None, typer.Option(help="TOML, YAML or JSON with fields of the configuration (`sagelift model config`).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, instead of the configuration's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of everything random, instead of the configuration's.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to train; auto: on CUDA where there is one.")] = Device.AUTO,
    as_of: Annotated[
        str | None,
        typer.Option(help="Train on what was known at a time, such as 2026-03-01T12:00:00Z; without it, now."),
    ] = None,
    resume: Annotated[str | None, typer.Option(help="A run that was broken off, by name or folder.")] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Write the training set and print how to train it on several GPUs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train ItemSage on the feature store's products and the event store's engagements."""
    if resume is not None and ((config, steps, seed, as_of) != (None, None, None, None) or prepare_only):
        raise typer.BadParameter(
            "--resume goes on with the run's own configuration and data; leave out --config, --steps, --seed, --as-of "
            "and --prepare-only"
        )
    at = instant(as_of)
    from inference.train import choose_device, continue_run
    from sagelift.progress import Stages
    from sagelift.services import Services
    from sagelift.training import data_as_of, find_unfinished, prepare_training

    where = choose_device(device.value)
    chosen = _configuration(config, steps, seed)
    with Services(current_settings()) as services:
        if resume is not None:
            run = find_unfinished(services, resume)
        else:
            if not prepare_only:
                _tell_unfinished(services)
            run = prepare_training(services, chosen, at)
    if prepare_only:
        return _print_command(run, as_json)
    if not run.exists():
        say(f"run {run.name}; should this be broken off: sagelift model train --resume {run.name}")
    with Stages().stage("train", f"Training on {where.type}") as stage:
        trained = continue_run(run, lambda name, done, total: stage.update(done, total, name), device=where)
    if as_json:
        return print_json({"run": str(run), "as_of": data_as_of(run), "result": trained.result})
    typer.echo(f"run {run}")
    typer.echo(f"losses {run / 'loss.svg'}")
    _print_recall(10, trained.config.model, trained.result.itemsage, trained.result.sum)


def _configuration(file: Path | None, steps: int | None, seed: int | None) -> TrainConfig:
    import msgspec

    from inference.train_config import TrainConfig, read_config

    config = TrainConfig() if file is None else read_config(file)
    changes = {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}
    return msgspec.structs.replace(config, **changes)


def _tell_unfinished(services: Services) -> None:
    from inference.train import unfinished_runs
    from sagelift.training import runs_folder

    for run in unfinished_runs(runs_folder(services)):
        say(f"run {run.name} was broken off; to go on with it: sagelift model train --resume {run.name}")


def _print_command(run: Path, as_json: bool) -> None:
    import shlex

    import torch

    processes = str(torch.cuda.device_count() or 1)
    command = ["torchrun", "--standalone", "--nproc-per-node", processes, "-m", "inference.train", str(run)]
    if as_json:
        return print_json({"run": str(run), "command": command})
    say(f"run {run.name} is prepared; train it with this command, or with: sagelift model train --resume {run.name}")
    typer.echo(shlex.join(command))


def _print_recall(k: int, model: str, found: Evaluation, by_sum: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = {"itemsage": "ItemSage", "sum_mlp": "Sum-MLP", "mlp_concat_mlp": "MLP-Concat-MLP"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"Recall@{k}")
    for name in ("pairs", names[model], "Sum"):
        table.add_column(name, justify="right")
    for task, recall in found.recall.items():
        table.add_row(task, f"{found.pairs[task]:,}", f"{recall:.3f}", f"{by_sum.recall[task]:.3f}")
    table.add_section()
    table.add_row("mean of the tasks", "", f"{found.mean_recall:.3f}", f"{by_sum.mean_recall:.3f}")
    table.add_row("coverage", "", f"{found.coverage:.3f}", f"{by_sum.coverage:.3f}")
    Console().print(table)


@app.command("config")
def config(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/model.md.")] = False,
) -> None:
    """Print all fields of the training configuration, as a TOML file for `sagelift model train --config`."""
    from inference.train_config import as_table, as_toml

    typer.echo(as_table() if markdown else as_toml(), nl=False)


@app.command("evaluate")
def evaluate(
    run: _Run = None,
    k: Annotated[int, typer.Option("--k", min=1, help="A pair counts if its product is among the best so many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compute a run's recall per task and coverage again, from its model and the training set it keeps."""
    from inference.train import evaluate_run
    from sagelift.services import Services
    from sagelift.training import find_run

    with Services(current_settings()) as services:
        folder = find_run(services, run)
    found = evaluate_run(folder, k)
    if as_json:
        import msgspec

        return print_json({"run": str(folder), **msgspec.structs.asdict(found)})
    typer.echo(f"run {folder}")
    _print_recall(found.k, found.model, found.itemsage, found.sum)


@app.command("export")
def export(
    run: _Run = None,
    to: Annotated[
        Path | None, typer.Option(help="A Triton model repository, made when missing; without it, the settings'.")
    ] = None,
    visual_encoder: Annotated[
        bool, typer.Option("--visual-encoder/--no-visual-encoder", help="The frozen image encoder too, where missing.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write a run as the next release of a model repository; it is not made live, and no Triton is asked."""
    from inference.repository import export_visual_encoder
    from sagelift.services import Services
    from sagelift.training import export_run, find_run

    with Services(current_settings()) as services:
        repo = to if to is not None else services.settings.model_repository
        release = export_run(repo, find_run(services, run))
    if visual_encoder:
        export_visual_encoder(repo)
    if as_json:
        return print_json({"version": release.version, "path": str(release.path)})
    typer.echo(f"release {release.version}  {release.path}")
    if to is None:
        say(f"to make it live: sagelift model live {release.version}")


@app.command("export-onnx")
def export_as_onnx(
    folder: Annotated[Path, typer.Argument(help="The model repository to make; it must not exist.")],
    release: Annotated[str | None, typer.Option(help="A release's version; without it, the live one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a release as ONNX, with its configuration, for a Triton with the ONNX Runtime backend."""
    from inference.errors import ArtifactError
    from inference.onnx_export import export_onnx
    from inference.repository import live_version

    repo = current_settings().model_repository
    version = release or live_version(repo)
    if version is None:
        raise ArtifactError(f"{repo} has no live release: make one live, or name one with --release")
    export_onnx(repo, version, folder)
    if as_json:
        return print_json({"version": version, "path": str(folder)})
    typer.echo(f"release {version} as ONNX  {folder}")


@app.command("release")
def release(
    run: Annotated[str | None, typer.Option(help="A run's name or folder; without it, the newest.")] = None,
    resume: Annotated[str | None, typer.Option(help="The version of a release that was broken off.")] = None,
    engine: EngineOption = EngineName.LOCAL,
    master: MasterOption = None,
    as_json: AsJson = False,
) -> None:
    """Export a run to Triton, probe it, embed the catalogue with it, compare it with the live one, and switch to it.

    One that is too much worse than the live one, or too different, does not become live; `sagelift model live` takes
    it all the same.
    """
    from sagelift.progress import Stages
    from sagelift.services import Services
    from sagelift.training import find_run, release_run

    if resume is not None:
        if run is not None:
            raise typer.BadParameter("--resume takes up a release that has its run; leave out --run")
        return _make_live(resume, as_json, engine, master, checked=True)

    def exported(version: str) -> None:
        say(f"exported as {version}; should this be broken off: sagelift model release --resume {version}")

    with Services(current_settings()) as services:
        folder = find_run(services, run)  # before anything is asked of Triton
        with (
            embedding_elsewhere(services, engine, master) as elsewhere,
            Stages().stage("release", "Release") as stage,
        ):
            released = release_run(services, folder, lambda done: stage.update(done), exported, elsewhere)
    _print_released(released, as_json)


@app.command("live")
def live(
    version: Annotated[str, typer.Argument(help="A release that `sagelift model list` lists.")],
    engine: EngineOption = EngineName.LOCAL,
    master: MasterOption = None,
    as_json: AsJson = False,
) -> None:
    """Switch to another release, for instance back to an older one; the catalogue is embedded with it first."""
    _make_live(version, as_json, engine, master)


def _make_live(version: str, as_json: bool, engine: EngineName, master: str | None, *, checked: bool = False) -> None:
    from inference.repository import find_release
    from sagelift.progress import Stages
    from sagelift.services import Services
    from sagelift.training import make_release_live

    with Services(current_settings()) as services:
        find_release(services.settings.model_repository, version)  # before anything is asked of Triton
        with (
            embedding_elsewhere(services, engine, master) as elsewhere,
            Stages().stage("release", f"Release {version}") as stage,
        ):
            released = make_release_live(
                services, version, lambda done: stage.update(done), checked=checked, elsewhere=elsewhere
            )
    _print_released(released, as_json)


def _print_released(released: Released, as_json: bool) -> None:
    if as_json:
        return print_json(released)
    typer.echo(f"release {released.version} is live; {released.counts.get('embedded', 0)} products embedded")
    if (beside := released.compared) is not None:
        recall = f"Recall@10 {_figure(beside.recall)} (release {beside.live}: {_figure(beside.live_recall)})"
        typer.echo(f"{recall}, nearest neighbours kept {_figure(beside.overlap)}")
    for product, reason in released.rejected.items():
        say(f"rejected: {product}: {reason}")
    found = released.reconciliation
    if not found.ok:
        say(
            f"of {found.products:,} products {found.missing:,} have no vector and {found.stale:,} one of other inputs; "
            f"to embed them: sagelift model live {released.version}"
        )
    raise typer.Exit(0 if found.ok and not released.rejected else 1)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@app.command("list")
def list_releases(as_json: AsJson = False) -> None:
    """List the releases; the live one is marked."""
    from inference.repository import live_version, releases

    repo = current_settings().model_repository
    live = live_version(repo)
    found: list[dict[str, Any]] = [
        {"version": r.version, "live": r.version == live, "path": str(r.path)} for r in releases(repo)
    ]
    if as_json:
        return print_json(found)
    for one in found:
        typer.echo(f"{'*' if one['live'] else ' '} {one['version']}  {one['path']}")


@app.command()
def card(
    run: Annotated[str | None, typer.Argument(help="A run folder or a run's name; without it, the newest.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.")] = None,
) -> None:
    """Print the card of one training run: data, configuration, Recall@10 per task, where it was trained."""
    from inference.trained import TrainedModel
    from sagelift.run_card import run_card
    from sagelift.services import Services
    from sagelift.training import find_run

    with Services(current_settings()) as services:
        folder = find_run(services, run)
    text = run_card(folder, TrainedModel.load(folder))
    if out is None:
        return typer.echo(text)
    aside = out.with_name(out.name + ".partial")
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(out)
    say(f"card: {out}")
