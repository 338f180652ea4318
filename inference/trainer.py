"""ItemSage's training loop: batches, steps, and a state that can be saved and restored to the bit.

With several processes each embeds its part of a step's distinct products; the embeddings are gathered with their
gradients, and each computes the loss of its part of the queries against all of them. The result is that of one process
with the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inference.baselines import build_encoder
from inference.dataset import IntArray, PackedProducts, Pairs
from inference.distributed import World
from inference.errors import InputError
from inference.inputs import Float32Array
from inference.losses import Candidates, Temperature, itemsage_loss
from inference.model import ItemSageConfig
from inference.sampling import PairSampler
from inference.train_config import TrainConfig

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
_Step = tuple[IntArray, Inputs | None, IntArray, Candidates, int]


class Optimiser:
    """AdamW with linear warm-up and cosine decay to zero."""

    def __init__(self, modules: Sequence[nn.Module], config: TrainConfig, steps: int) -> None:
        self._rate, self._steps = config.learning_rate, steps
        self._warmup = max(1, min(config.warmup_steps, steps // 5))
        self._parameters = [p for m in modules for p in m.parameters()]
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def step(self, loss: Tensor, done: int) -> None:
        """One step; `done` were made before."""
        rate = self._rate * self._factor(done)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adamw.step()

    def check(self, loss: float) -> float:
        """The loss, if it is a number.

        Raises:
            InputError: training diverged.
        """
        if not math.isfinite(loss):
            raise InputError(f"training diverged: the loss is {loss}; lower learning_rate ({self._rate:g})")
        return loss

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and step counts, by the parameter's number."""
        return {
            f"{number}.{name}": value
            for number, parameter in enumerate(self._parameters)
            for name, value in self._adamw.state[parameter].items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for number, parameter in enumerate(self._parameters):
            names = ("step", "exp_avg", "exp_avg_sq")
            device = parameter.device
            self._adamw.state[parameter] = {name: state[f"{number}.{name}"].to(device) for name in names}

    def _factor(self, done: int) -> float:
        if done < self._warmup:
            return (done + 1) / self._warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self._warmup) / max(1, self._steps - self._warmup)))


class Trainer:
    """The model in training. `queries` `[Q, 256]` are the frozen vectors of `pairs.queries`.

    Raises:
        InputError: batch or encoder do not fit the configuration or the number of processes.
    """

    def __init__(
        self,
        packed: PackedProducts,
        pairs: Pairs,
        queries: Float32Array,
        config: TrainConfig,
        rng: np.random.Generator,
        *,
        device: torch.device | None = None,
        world: World | None = None,
    ) -> None:
        self._packed, self._config = packed, config
        self._device = device or torch.device("cpu")
        self._world = world or World()
        if config.batch % self._world.size:
            raise InputError(f"batch ({config.batch}) must be a multiple of the {self._world.size} processes")
        self._queries = torch.from_numpy(queries).to(self._device)
        self._sampler = PairSampler(pairs, len(packed), config, rng)
        self.encoder = build_encoder(config.model, model_config(config, packed.vocabulary)).to(self._device)
        self.temperature = Temperature().to(self._device)
        network = _Network(self.encoder, self.temperature, self._load, config, self._device)
        # DistributedDataParallel averages the gradients of the processes while backward still runs.
        self._network: nn.Module = (
            nn.parallel.DistributedDataParallel(network) if self._world.size > 1 else network.train()
        )
        self.optimiser = Optimiser([self.encoder, self.temperature], config, config.steps)
        self.losses: list[float] = []

    def run(
        self, on_step: Callable[[int], None], save: Callable[[], None] | None = None, until: int | None = None
    ) -> None:
        """All steps that are left, or those `until` so many are done. `save` is called every `checkpoint_every` steps,
        when `state` is at rest.

        Raises:
            InputError: training diverged.
        """
        self._network.train()
        last = self._config.steps if until is None else until
        with ThreadPoolExecutor(1, "batches") as pool:
            upcoming: Future[_Step] | None = None
            while len(self.losses) < last:
                batch = (upcoming or pool.submit(self.prepare)).result()
                done = len(self.losses) + 1
                saves = save is not None and done % self._config.checkpoint_every == 0
                # The next batch is drawn while this one is computed, unless that would change what is to be saved.
                upcoming = None if saves or done == last else pool.submit(self.prepare)
                self.losses.append(self.step(batch))
                if saves and save is not None:
                    save()
                on_step(done)

    def prepare(self) -> _Step:
        """Draw the next batch; load it where it is small enough to be embedded at once."""
        batch = self._sampler.draw()
        rank, size = self._world
        each = -(-len(batch.products) // size)
        mine = np.resize(batch.products, each * size)[rank * each : (rank + 1) * each]
        query, candidates = batch.part(rank, size)
        inputs = self._load(mine) if len(mine) <= self._config.encoder_chunk else None
        return mine, inputs, query, candidates, len(batch.products)

    def loss(self, prepared: _Step) -> Tensor:
        """The loss of this process' part of the queries."""
        rows, inputs, query, candidates, products = prepared
        part, scale = self._network(rows, inputs)
        return itemsage_loss(
            self._queries[torch.from_numpy(query).to(self._device)],
            self._world.gather(part)[:products],
            candidates.to(self._device),
            scale,
            prefixes=self._config.prefixes,
            prefix_weight=self._config.prefix_weight,
            chunk=self._config.loss_chunk,
        )

    def step(self, prepared: _Step) -> float:
        """One step of training; the mean loss over all processes."""
        loss = self.loss(prepared)
        value = self.optimiser.check(self._world.mean(loss.detach().clone()).item())
        self.optimiser.step(loss, len(self.losses))
        return value

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain data."""
        tables, sampler = self._sampler.state()
        tensors = {
            **_named("encoder", self.encoder.state_dict()),
            **_named("temperature", self.temperature.state_dict()),
            **_named("optimiser", self.optimiser.state()),
            **_named("sketch", tables),
            "torch.rng": torch.get_rng_state(),
        }
        return tensors, {"sampler": sampler, "losses": self.losses}

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Take over what `state` gave; the same configuration and data are the caller's business.

        Raises:
            KeyError, RuntimeError: the state is of another model.
        """
        self.encoder.load_state_dict(_under("encoder", tensors))
        self.temperature.load_state_dict(_under("temperature", tensors))
        self.optimiser.restore(_under("optimiser", tensors))
        self._sampler.restore(_under("sketch", tensors), plain["sampler"])
        torch.set_rng_state(tensors["torch.rng"])
        self.losses = list(plain["losses"])

    def _load(self, rows: IntArray) -> Inputs:
        inputs = self._packed.batch(rows, images=self._config.images, text=self._config.text)
        if self._device.type == "cpu":
            return inputs
        a, b, c, d = (t.pin_memory().to(self._device, non_blocking=True) for t in inputs)
        return a, b, c, d


class _Network(nn.Module):
    """What is learned, in one module, as DistributedDataParallel wants it."""

    def __init__(
        self,
        encoder: nn.Module,
        temperature: Temperature,
        load: Callable[[IntArray], Inputs],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self._load, self._chunk, self._device = load, config.encoder_chunk, device.type
        self._bfloat16 = config.precision == "bfloat16"

    def forward(self, rows: IntArray, inputs: Inputs | None) -> tuple[Tensor, Tensor]:
        """Embeddings `[n, 256]` of these products, and the scale of the cosines.

        More products than a chunk holds are embedded chunk by chunk, each computed again for the gradient: memory then
        holds one chunk's activations, however many products there are.
        """
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16):
            if inputs is not None:
                return self.encoder(*inputs), self.temperature()
            parts = [
                checkpoint(self._embed, rows[s : s + self._chunk], use_reentrant=False, preserve_rng_state=False)
                for s in range(0, len(rows), self._chunk)
            ]
            return torch.cat(parts), self.temperature()

    def _embed(self, rows: IntArray) -> Tensor:
        embedded: Tensor = self.encoder(*self._load(rows))
        return embedded


def model_config(config: TrainConfig, vocabulary: int) -> ItemSageConfig:
    """The encoder's sizes."""
    return ItemSageConfig(
        vocabulary=vocabulary,
        table_rows=table_rows(vocabulary),
        width=config.width,
        heads=config.heads,
        feedforward=config.feedforward,
        head_hidden=config.head_hidden,
        layers=config.layers,
    )


def table_rows(vocabulary: int) -> int:
    """The paper's 100,000 rows, scaled down with the vocabulary."""
    return min(100_000, max(1_000, vocabulary))


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}:{name}": value for name, value in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}:"): t for name, t in tensors.items() if name.startswith(f"{prefix}:")}
