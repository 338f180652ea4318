"""`sagelift up`, `status`, `down` and `fetch`: the local stack of Kafka, Triton and the consumers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say

if TYPE_CHECKING:
    from sagelift.stack.status import StackStatus


def fetch() -> None:
    """Download and verify the components that are not Python packages: Apache Kafka and Triton."""
    from sagelift.stack.components import fetch_all

    fetch_all(current_settings().cache, say)
    say("All components are in the cache folder.")


def up() -> None:
    """Start the local stack and its consumers.

    Runs until Ctrl-C.
    """
    from inference.releases.export import export_visual_encoder
    from sagelift.local_stack import stack_options, worker_specs
    from sagelift.services import Services
    from sagelift.stack.components import fetch_all
    from sagelift.stack.foreground import run
    from sagelift.stack.stack import LocalStack

    settings = current_settings()
    fetch_all(settings.cache, say)
    with Services(settings) as services:
        services.create_stores()
    export_visual_encoder(settings.model_repository)
    stack = LocalStack(settings.state, settings.cache, stack_options(settings), say=say)
    raise typer.Exit(run(stack, lambda running: worker_specs(running, settings), say=say))


def status(as_json: AsJson = False) -> None:
    """Show the local stack and the state of each component.

    Exit code 1 when a component is not healthy.
    """
    from sagelift.stack.status import read_status

    stack = read_status(current_settings().state)
    if as_json:
        print_json(asdict(stack) | {"healthy": stack.healthy})
    else:
        _print_status(stack)
    raise typer.Exit(0 if stack.healthy else 1)


def down(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for a clean stop.")] = 60.0,
) -> None:
    """Stop the local stack."""
    from sagelift.stack.status import stop

    say("Stopped." if stop(current_settings().state, timeout) else "No local stack was running.")


def _print_status(stack: StackStatus) -> None:
    if not stack.running:
        typer.echo("No local stack is running" + (" (its supervisor was killed)." if stack.stale else "."))
        return
    typer.echo(f"running, pid {stack.pid}")
    for part in stack.components:
        error = f"  last error: {part.last_error}" if part.last_error else ""
        typer.echo(
            f"  {part.name:<10} {part.state:<10} {part.address or '':<22} restarts {part.restarts}"
            f"  log {part.log or '-'}{error}"
        )
