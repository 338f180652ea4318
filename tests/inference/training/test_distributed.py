"""The processes and devices of a training."""

from __future__ import annotations

import pytest
import torch

from inference.errors import InputError
from inference.training.distributed import World, choose_device, joined


def test_cuda_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="CUDA was asked for"):
        choose_device("cuda")


def test_a_process_alone_is_the_whole_world() -> None:
    with joined(torch.device("cpu")) as world:
        assert world == World(rank=0, size=1)
    part = torch.ones(2, 3)
    assert world.gather(part) is part
    assert world.mean(torch.tensor(2.0)).item() == 2.0
