"""`python -m inference.training RUN`: train a prepared run; under `torchrun`, one of its processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from inference.errors import InferenceError
from inference.training.distributed import choose_device, joined
from inference.training.run import continue_run


def main(arguments: Sequence[str]) -> int:
    """Train the run named by the only argument and return the exit code.

    Returns:
        0 on success, 2 after a wrong usage, 3 if the run cannot be trained.
    """
    if len(arguments) != 1:
        print("usage: python -m inference.training RUN", file=sys.stderr)
        return 2
    device = choose_device()
    try:
        with joined(device) as world:
            report = world.rank == 0 and sys.stderr.isatty()

            def on_progress(stage: str, done: int, total: int) -> None:
                if report:
                    print(f"\r{stage} {done}/{total} ", end="", file=sys.stderr, flush=True)

            trained = continue_run(Path(arguments[0]), on_progress, device=device, world=world)
            if world.rank == 0:
                print(f"Recall@10 over the tasks: {trained.result.itemsage.mean_recall:.3f}")
    except InferenceError as error:
        print(f"inference.training: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
