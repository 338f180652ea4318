"""`sagelift model`: train, evaluate, export, release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sagelift.commands.console import AsJson, counted, current_settings, print_json, say
from sagelift.commands.engines import EngineOptions, embedding_workers
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_time

if TYPE_CHECKING:
    from inference.training.config import TrainConfig
    from inference.training.evaluation import Evaluation
    from sagelift.services import Services
    from streaming.release.release import Released

app = typer.Typer(help="ItemSage models: train, evaluate, export, release.", no_args_is_help=True)

_Run = Annotated[str | None, typer.Argument(help="Name or folder of a run. Default: the newest.")]


@dataclass(frozen=True)
class TrainOptions:
    """Data and configuration of a new run."""

    config: Annotated[
        Path | None,
        typer.Option(help="TOML, YAML or JSON file of the configuration. Default: `sagelift model config` prints it."),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of training steps. Default: the configuration's.")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed. Default: the configuration's.")] = None
    as_of: Annotated[
        str | None,
        typer.Option(help="Train on the data that was known at this time, such as 2026-03-01T12:00:00Z. Default: now."),
    ] = None
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Write the training set and print how to train on several GPUs.")
    ] = False

    def configuration(self) -> TrainConfig:
        """Return the configuration of the file, with its values replaced by the options."""
        import msgspec

        from inference.training.config import TrainConfig
        from inference.training.config_file import read_config

        config = TrainConfig() if self.config is None else read_config(self.config)
        changes = {name: value for name in ("steps", "seed") if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(config, **changes)


@app.command()
@expand_options
def train(
    options: TrainOptions,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on; auto is CUDA if available.")
    ] = "auto",
    resume: Annotated[str | None, typer.Option(help="Name or folder of an interrupted run to resume.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train ItemSage on the feature store's products and the experiment database's engagements."""
    if resume is not None and options != TrainOptions():
        raise typer.BadParameter(
            "--resume uses the run's own configuration and data; leave out --config, --steps, --seed, --as-of and "
            "--prepare-only"
        )
    as_of = None if options.as_of is None else parse_time(options.as_of, "--as-of")
    from inference.training.distributed import choose_device
    from inference.training.run import continue_run
    from sagelift.progress import Stages
    from sagelift.runs import data_as_of, find_unfinished
    from sagelift.services import Services
    from sagelift.training import prepare_training

    chosen_device = choose_device(device)
    configuration = options.configuration()
    with Services(current_settings()) as services:
        if resume is not None:
            run = find_unfinished(services, resume)
        else:
            if not options.prepare_only:
                _say_unfinished(services)
            run = prepare_training(services, configuration, as_of)
    if options.prepare_only:
        return _print_command(run, as_json)
    if not run.exists():
        say(f"run {run.name}; to resume it after an interruption: sagelift model train --resume {run.name}")
    with Stages().stage("train", f"Training on {chosen_device.type}") as stage:
        trained = continue_run(run, lambda name, done, total: stage.update(done, total, name), device=chosen_device)
    if as_json:
        return print_json({"run": str(run), "as_of": data_as_of(run), "result": trained.result})
    typer.echo(f"run {run}")
    typer.echo(f"losses {run / 'loss.svg'}")
    _print_recall(10, trained.config.model, trained.result.itemsage, trained.result.sum)


@app.command()
def config(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference table of the documentation.")
    ] = False,
) -> None:
    """Print all fields of the training configuration, as a TOML file for `sagelift model train --config`."""
    from inference.training.config_file import as_table, as_toml

    typer.echo(as_table() if markdown else as_toml(), nl=False)


@app.command()
def evaluate(
    run: _Run = None,
    k: Annotated[
        int, typer.Option("--k", min=1, help="Number of best products that must contain a pair's product.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Compute a run's recall per task and its coverage again, from its model and its training set."""
    from inference.training.run import evaluate_run
    from sagelift.runs import find_run
    from sagelift.services import Services

    with Services(current_settings()) as services:
        folder = find_run(services, run)
    evaluation = evaluate_run(folder, k)
    if as_json:
        import msgspec

        return print_json({"run": str(folder), **msgspec.structs.asdict(evaluation)})
    typer.echo(f"run {folder}")
    _print_recall(evaluation.k, evaluation.model, evaluation.itemsage, evaluation.sum)


@app.command()
def export(
    run: _Run = None,
    to: Annotated[
        Path | None, typer.Option(help="Triton model repository, created if missing. Default: from the settings.")
    ] = None,
    visual_encoder: Annotated[
        bool, typer.Option("--visual-encoder/--no-visual-encoder", help="Also write the image encoder if missing.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write a run as the next release of a model repository, without making it live. Needs no Triton."""
    from inference.releases.export import export_visual_encoder
    from sagelift.releases import export_run
    from sagelift.runs import find_run
    from sagelift.services import Services

    with Services(current_settings()) as services:
        repository = to if to is not None else services.settings.model_repository
        exported = export_run(repository, find_run(services, run))
    if visual_encoder:
        export_visual_encoder(repository)
    if as_json:
        return print_json({"version": exported.version, "path": str(exported.path)})
    typer.echo(f"release {exported.version}  {exported.path}")
    if to is None:
        say(f"to make it live: sagelift model live {exported.version}")


@app.command("export-onnx")
def export_onnx(
    folder: Annotated[Path, typer.Argument(help="Model repository to create. It must not exist.")],
    release: Annotated[str | None, typer.Option(help="Version of the release. Default: the live one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a release as ONNX with its configuration, for a Triton with the ONNX Runtime backend."""
    from inference.errors import ArtifactError
    from inference.releases.onnx_export import export_onnx as write_onnx
    from inference.releases.repository import live_version

    repository = current_settings().model_repository
    version = release or live_version(repository)
    if version is None:
        raise ArtifactError(f"{repository} has no live release; make one live, or name one with --release")
    write_onnx(repository, version, folder)
    if as_json:
        return print_json({"version": version, "path": str(folder)})
    typer.echo(f"release {version} as ONNX  {folder}")


@app.command()
@expand_options
def release(
    engine: EngineOptions,
    run: Annotated[str | None, typer.Option(help="Name or folder of a run. Default: the newest.")] = None,
    resume: Annotated[str | None, typer.Option(help="Version of an interrupted release to resume.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export a run to Triton, probe it, embed the catalogue, compare it with the live release, and switch to it.

    A release that is much worse than the live one, or too different from it, does not become live.
    `sagelift model live` skips this check. Exit code 1 when a product was rejected or has no current vector.
    """
    from sagelift.progress import Stages
    from sagelift.releases import release_run
    from sagelift.runs import find_run
    from sagelift.services import Services

    if resume is not None:
        if run is not None:
            raise typer.BadParameter("leave out --run; --resume takes the run from the interrupted release")
        return _make_live(resume, engine, as_json, checked=True)

    def say_exported(version: str) -> None:
        say(f"exported as {version}; to resume it after an interruption: sagelift model release --resume {version}")

    with Services(current_settings()) as services:
        folder = find_run(services, run)  # before the first request to Triton
        with embedding_workers(services, engine) as workers, Stages().stage("release", "Release") as stage:
            released = release_run(services, folder, lambda done: stage.update(done), say_exported, workers)
    _print_released(released, as_json)


@app.command()
@expand_options
def live(
    version: Annotated[str, typer.Argument(help="Version of a release that `sagelift model list` lists.")],
    engine: EngineOptions,
    as_json: AsJson = False,
) -> None:
    """Switch to another release, for instance back to an older one. Embeds the catalogue with it first.

    Exit code 1 when a product was rejected or has no current vector.
    """
    _make_live(version, engine, as_json)


@app.command("list")
def list_releases(as_json: AsJson = False) -> None:
    """List the releases. The live one is marked with *."""
    from inference.releases.repository import live_version, releases

    repository = current_settings().model_repository
    live = live_version(repository)
    if as_json:
        return print_json(
            [{"version": r.version, "live": r.version == live, "path": str(r.path)} for r in releases(repository)]
        )
    for each in releases(repository):
        typer.echo(f"{'*' if each.version == live else ' '} {each.version}  {each.path}")


@app.command()
def card(
    run: _Run = None,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: print the card.")] = None,
) -> None:
    """Print the card of a training run: data, configuration, Recall@10 per task, environment."""
    from feature_repo.files import write_atomically
    from inference.training.result import TrainedModel
    from sagelift.run_card import run_card
    from sagelift.runs import find_run
    from sagelift.services import Services

    with Services(current_settings()) as services:
        folder = find_run(services, run)
    text = run_card(folder, TrainedModel.load(folder))
    if out is None:
        return typer.echo(text)
    write_atomically(out, text + "\n")
    say(f"card: {out}")


def _make_live(version: str, engine: EngineOptions, as_json: bool, *, checked: bool = False) -> None:
    from inference.releases.repository import find_release
    from sagelift.progress import Stages
    from sagelift.releases import make_release_live
    from sagelift.services import Services

    with Services(current_settings()) as services:
        find_release(services.settings.model_repository, version)  # before the first request to Triton
        with (
            embedding_workers(services, engine) as workers,
            Stages().stage("release", f"Release {version}") as stage,
        ):
            released = make_release_live(
                services, version, lambda done: stage.update(done), checked=checked, workers=workers
            )
    _print_released(released, as_json)


def _say_unfinished(services: Services) -> None:
    from inference.training.run import unfinished_runs
    from sagelift.runs import runs_folder

    for run in unfinished_runs(runs_folder(services)):
        say(f"run {run.name} was interrupted; to resume it: sagelift model train --resume {run.name}")


def _print_command(run: Path, as_json: bool) -> None:
    import shlex

    import torch

    processes = str(torch.cuda.device_count() or 1)
    command = ["torchrun", "--standalone", "--nproc-per-node", processes, "-m", "inference.training", str(run)]
    if as_json:
        return print_json({"run": str(run), "command": command})
    say(f"run {run.name} is prepared; train it with this command, or with: sagelift model train --resume {run.name}")
    typer.echo(shlex.join(command))


def _print_recall(k: int, model: str, trained: Evaluation, by_sum: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = {"itemsage": "ItemSage", "sum_mlp": "Sum-MLP", "mlp_concat_mlp": "MLP-Concat-MLP"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"Recall@{k}")
    for name in ("pairs", names[model], "Sum"):
        table.add_column(name, justify="right")
    for task, recall in trained.recall.items():
        table.add_row(task, f"{trained.pairs[task]:,}", f"{recall:.3f}", f"{by_sum.recall[task]:.3f}")
    table.add_section()
    table.add_row("mean of the tasks", "", f"{trained.mean_recall:.3f}", f"{by_sum.mean_recall:.3f}")
    table.add_row("coverage", "", f"{trained.coverage:.3f}", f"{by_sum.coverage:.3f}")
    Console().print(table)


def _print_released(released: Released, as_json: bool) -> None:
    if as_json:
        print_json(released)
    else:
        _print_release(released)
    raise typer.Exit(0 if released.reconciliation.ok and not released.rejected else 1)


def _print_release(released: Released) -> None:
    typer.echo(f"release {released.version} is live; {counted(released.counts.get('embedded', 0), 'product')} embedded")
    if (compared := released.compared) is not None:
        recall = f"Recall@10 {_figure(compared.recall)} (release {compared.live}: {_figure(compared.live_recall)})"
        typer.echo(f"{recall}, nearest neighbours kept {_figure(compared.overlap)}")
    for product, reason in released.rejected.items():
        say(f"rejected: {product}: {reason}")
    result = released.reconciliation
    if not result.ok:
        say(
            f"{result.missing:,} of {counted(result.products, 'product')} have no vector and {result.stale:,} have a "
            f"vector of older inputs; to embed them: sagelift model live {released.version}"
        )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
