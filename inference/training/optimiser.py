"""AdamW with a learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inference.errors import InputError
from inference.training.config import TrainConfig


class Optimiser:
    """AdamW with linear warm-up and cosine decay to zero.

    Args:
        modules: The modules to train.
        config: Learning rate, warm-up and weight decay.
        steps: Number of all steps.
    """

    def __init__(self, modules: Sequence[nn.Module], config: TrainConfig, steps: int) -> None:
        self._rate, self._steps = config.learning_rate, steps
        self._warmup = max(1, min(config.warmup_steps, steps // 5))
        self._parameters = [p for m in modules for p in m.parameters()]
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def step(self, loss: Tensor, done: int) -> None:
        """Make one step.

        Args:
            loss: The loss, a scalar with its graph.
            done: Number of steps made before.
        """
        rate = self._rate * self._factor(done)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adamw.step()

    def check(self, loss: float) -> float:
        """Return the loss if it is finite.

        Raises:
            InputError: If it is not: training diverged.
        """
        if not math.isfinite(loss):
            raise InputError(f"training diverged: the loss is {loss}; lower learning_rate ({self._rate:g})")
        return loss

    def state(self) -> dict[str, Tensor]:
        """Return AdamW's running averages and step counts, by the parameter's number."""
        return {
            f"{number}.{name}": value
            for number, parameter in enumerate(self._parameters)
            for name, value in self._adamw.state[parameter].items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for number, parameter in enumerate(self._parameters):
            names = ("step", "exp_avg", "exp_avg_sq")
            device = parameter.device
            self._adamw.state[parameter] = {name: state[f"{number}.{name}"].to(device) for name in names}

    def _factor(self, done: int) -> float:
        if done < self._warmup:
            return (done + 1) / self._warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self._warmup) / max(1, self._steps - self._warmup)))
