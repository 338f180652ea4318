"""Training in several processes (`torchrun`): the process group, its devices, and gathered embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from inference.errors import InputError


class World(NamedTuple):
    """This process among all processes that train one model together."""

    rank: int = 0
    size: int = 1  # number of processes

    def barrier(self) -> None:
        """Wait until all processes have called this method."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a detached value over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def gather(self, part: Tensor) -> Tensor:
        """Concatenate `[n, D]` of all processes to `[size * n, D]`. Gradients flow back through it.

        Args:
            part: This process's part; its shape must be the same in all processes.
        """
        if self.size == 1:
            return part
        out: Tensor = _Gather.apply(part, self)  # type: ignore[no-untyped-call]
        return out


class _Gather(torch.autograd.Function):
    """Gathers the embeddings of all processes.

    Each process's loss depends on all embeddings. Backward sums the gradients of a part in the process that
    computed the part.
    """

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
    """Join the process group that `torchrun` describes in the environment; without one, yield this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to train on; each of several processes gets the GPU of its local rank.

    Args:
        name: `cpu`, `cuda`, or `auto` for CUDA if it is available.

    Raises:
        InputError: If CUDA is asked for and not available.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("CUDA was asked for, but PyTorch finds no GPU: train on cpu, or see `nvidia-smi`")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
