"""ItemSage's training loop: batches, steps, and a state that can be saved and restored exactly.

With several processes, each embeds its part of a step's distinct products. The embeddings are gathered together with
their gradients, and each process computes the loss of its part of the queries against all products. The result equals
that of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inference.arrays import Float32Array, Int64Array
from inference.errors import InputError
from inference.training.config import TrainConfig
from inference.training.distributed import World
from inference.training.encoders import build_encoder, encoder_sizes
from inference.training.itemsage_loss import SampledCandidates, itemsage_loss
from inference.training.losses import Temperature
from inference.training.optimiser import Optimiser
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs
from inference.training.sampling import PairSampler

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""The arguments of `ItemSage.forward`."""


class Step(NamedTuple):
    """This process's part of one training step."""

    rows: Int64Array  # the products that this process embeds
    inputs: Inputs | None  # of these products; None if they are too many to be embedded at once
    query: Int64Array  # this process's queries
    candidates: SampledCandidates  # of these queries, among all products of the step
    products: int  # number of distinct products of the step, over all processes


class Trainer:
    """Trains one encoder.

    Args:
        packed: The catalogue.
        pairs: Training and held-out pairs.
        queries: `[Q, 256]`, the frozen vectors of `pairs.queries`.
        config: The options of the training.
        rng: Draws the batches.
        device: The device of the encoder; None for the CPU.
        world: The processes that train together; None for this process alone.

    Attributes:
        encoder: The encoder in training.
        temperature: The learned scale of the cosines.
        optimiser: Updates encoder and temperature.
        losses: The loss of each step so far, in nats.

    Raises:
        InputError: If the batch size or the encoder does not fit the configuration or the number of processes.
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
        self.encoder = build_encoder(config.model, encoder_sizes(config, packed.vocabulary)).to(self._device)
        self.temperature = Temperature().to(self._device)
        network = _Network(self.encoder, self.temperature, self._load, config, self._device)
        # DistributedDataParallel averages the gradients of the processes while backward is still running.
        self._network: nn.Module = (
            nn.parallel.DistributedDataParallel(network) if self._world.size > 1 else network.train()
        )
        self.optimiser = Optimiser([self.encoder, self.temperature], config, config.steps)
        self.losses: list[float] = []

    def run(
        self, on_step: Callable[[int], None], save: Callable[[], None] | None = None, until: int | None = None
    ) -> None:
        """Make all steps that are left.

        Args:
            on_step: Called after each step with the number of steps done.
            save: Called every `checkpoint_every` steps, at a time when `state` is consistent.
            until: Stop after so many steps in total; None for all steps of the configuration.

        Raises:
            InputError: If training diverges.
        """
        self._network.train()
        last = self._config.steps if until is None else until
        with ThreadPoolExecutor(1, "batches") as pool:
            upcoming: Future[Step] | None = None
            while len(self.losses) < last:
                batch = (upcoming or pool.submit(self.prepare)).result()
                done = len(self.losses) + 1
                saves = save is not None and done % self._config.checkpoint_every == 0
                # Draw the next batch while this one is computed, unless that changes a state that is about to be saved.
                upcoming = None if saves or done == last else pool.submit(self.prepare)
                self.losses.append(self.step(batch))
                if saves and save is not None:
                    save()
                on_step(done)

    def prepare(self) -> Step:
        """Draw the next batch, and load its inputs if it is small enough to be embedded at once."""
        batch = self._sampler.draw()
        rank, size = self._world
        each = -(-len(batch.products) // size)
        mine = np.resize(batch.products, each * size)[rank * each : (rank + 1) * each]
        query, candidates = batch.part(rank, size)
        inputs = self._load(mine) if len(mine) <= self._config.encoder_chunk else None
        return Step(mine, inputs, query, candidates, len(batch.products))

    def loss(self, prepared: Step) -> Tensor:
        """Return the loss of this process's part of the queries."""
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

    def step(self, prepared: Step) -> float:
        """Make one training step; return the mean loss over all processes."""
        loss = self.loss(prepared)
        value = self.optimiser.check(self._world.mean(loss.detach().clone()).item())
        self.optimiser.step(loss, len(self.losses))
        return value

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next step depends on: tensors, and data that JSON can hold."""
        tables, sampler = self._sampler.state()
        tensors = {
            **_with_prefix("encoder", self.encoder.state_dict()),
            **_with_prefix("temperature", self.temperature.state_dict()),
            **_with_prefix("optimiser", self.optimiser.state()),
            **_with_prefix("sketch", tables),
            "torch.rng": torch.get_rng_state(),
        }
        return tensors, {"sampler": sampler, "losses": self.losses}

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restore what `state` returned. The caller must use the same configuration and data.

        Raises:
            KeyError: If the state belongs to another model.
            RuntimeError: If the state belongs to another model.
        """
        self.encoder.load_state_dict(_without_prefix("encoder", tensors))
        self.temperature.load_state_dict(_without_prefix("temperature", tensors))
        self.optimiser.restore(_without_prefix("optimiser", tensors))
        self._sampler.restore(_without_prefix("sketch", tensors), plain["sampler"])
        torch.set_rng_state(tensors["torch.rng"])
        self.losses = list(plain["losses"])

    def _load(self, rows: Int64Array) -> Inputs:
        inputs = self._packed.batch(rows, images=self._config.images, text=self._config.text)
        if self._device.type == "cpu":
            return inputs
        a, b, c, d = (t.pin_memory().to(self._device, non_blocking=True) for t in inputs)
        return a, b, c, d


class _Network(nn.Module):
    """All learned parameters in one module, as DistributedDataParallel needs it."""

    def __init__(
        self,
        encoder: nn.Module,
        temperature: Temperature,
        load: Callable[[Int64Array], Inputs],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self._load, self._chunk, self._device = load, config.encoder_chunk, device.type
        self._bfloat16 = config.precision == "bfloat16"

    def forward(self, rows: Int64Array, inputs: Inputs | None) -> tuple[Tensor, Tensor]:
        """Return the embeddings `[n, 256]` of some products and the scale of the cosines.

        Without inputs the products are embedded chunk by chunk, and each chunk is computed again for the gradient.
        Memory then holds the activations of one chunk only.

        Args:
            rows: `[n]`, row numbers of the products.
            inputs: The products' inputs; None to load them chunk by chunk.
        """
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16):
            if inputs is not None:
                return self.encoder(*inputs), self.temperature()
            parts = [
                checkpoint(self._embed, rows[s : s + self._chunk], use_reentrant=False, preserve_rng_state=False)
                for s in range(0, len(rows), self._chunk)
            ]
            return torch.cat(parts), self.temperature()

    def _embed(self, rows: Int64Array) -> Tensor:
        embedded: Tensor = self.encoder(*self._load(rows))
        return embedded


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}:{name}": value for name, value in tensors.items()}


def _without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}:"): t for name, t in tensors.items() if name.startswith(f"{prefix}:")}
