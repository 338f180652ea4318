"""Training in several processes (`torchrun`): who am I, and embeddings gathered from all with their gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class World(NamedTuple):
    """This process among `size` that train one model together."""

    rank: int = 0
    size: int = 1

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a detached value over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def gather(self, part: Tensor) -> Tensor:
        """`[n, D]` of every process, of equal shapes -> `[size * n, D]`, through which gradients flow back."""
        if self.size == 1:
            return part
        out: Tensor = _Gather.apply(part, self)  # type: ignore[no-untyped-call]
        return out


class _Gather(torch.autograd.Function):
    """Each process' loss depends on the embeddings of all: what they owe to a part is summed where it was computed."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World) -> Tensor:
        ctx.mine = slice(world.rank * len(part), (world.rank + 1) * len(part))
        parts = [torch.empty_like(part) for _ in range(world.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.mine], None


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that `torchrun` describes in the environment; without it, this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
