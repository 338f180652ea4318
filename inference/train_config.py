"""What can be chosen about a training run."""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

from inference.dataset import QUERY_KINDS, TASKS
from inference.errors import InputError
from inference.inputs import VECTOR_DIM

Encoder = Literal["itemsage", "sum_mlp", "mlp_concat_mlp"]
Loss = Literal["separate", "shared", "in_batch", "random"]
Precision = Literal["float32", "bfloat16"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. The sizes suit a catalogue of thousands on two CPU cores; the paper's are `ItemSageConfig()`."""

    steps: int = 400
    batch: int = 256  # pairs a step, over all processes
    random_negatives: int = 256  # products of the catalogue, drawn evenly, over all processes
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    search_steps: int = 150
    seed: int = 7

    tasks: dict[str, float] | None = None
    """Task ("image/click") -> its share of every batch; 0 is evaluated but not trained. A task is a query kind and any
    kind of engagement that the log names. None: the eight of the paper, those that have pairs in equal parts."""

    images: bool = True  # False: a text-only model
    text: bool = True  # False: an image-only model
    model: Encoder = "itemsage"  # or a baseline, see inference.baselines
    loss: Loss = "separate"  # L_pos + L_neg; one denominator for both; L_pos alone; L_neg alone
    log_q: bool = True  # correct candidates and positives by their sampling frequencies
    prefixes: tuple[int, ...] = ()  # the loss also on the first so many dimensions (32, 64, 128 in OmniSearchSage)
    prefix_weight: float = 0.05

    precision: Precision = "float32"  # of the encoder's matrix products; weights and loss stay float32
    encoder_chunk: int = 2048  # more distinct products than this in a step: in chunks, computed again for the gradient
    loss_chunk: int = 4096  # candidates whose logits are in memory at once
    checkpoint_every: int = 200  # steps

    unigrams: int = 200_000
    bigrams: int = 1_000_000
    trigrams: int = 64_000
    width: int = 256
    heads: int = 4
    feedforward: int = 1024
    head_hidden: int = 1024
    layers: int = 1

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch", "random_negatives", "search_steps", "encoder_chunk", "loss_chunk", "layers")
        for name in (*at_least_one, "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} ({getattr(self, name)}) must be at least 1")
        for name, choices in (("model", Encoder), ("loss", Loss), ("precision", Precision)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(f"{name} ({getattr(self, name)!r}) must be one of {', '.join(get_args(choices))}")
        if not (self.images or self.text):
            raise InputError("images and text are both switched off: nothing of a product would be left")
        if wrong := [p for p in self.prefixes if not 1 <= p < VECTOR_DIM]:
            raise InputError(f"prefixes ({wrong[0]}) must lie between 1 and {VECTOR_DIM - 1} dimensions")
        if self.tasks is not None:
            _check_tasks(self.tasks)

    @property
    def known_tasks(self) -> tuple[str, ...]:
        """The tasks that the engagement log may name."""
        return TASKS if self.tasks is None else tuple(self.tasks)


def _check_tasks(tasks: dict[str, float]) -> None:
    for task, share in tasks.items():
        kind, _, action = task.partition("/")
        if kind not in QUERY_KINDS or not action:
            raise InputError(f"task {task!r} must be a query kind ({' or '.join(QUERY_KINDS)}), '/', an engagement")
        if not (math.isfinite(share) and share >= 0):
            raise InputError(f"the share of task {task!r} ({share}) must be a number of at least 0")
    if not any(tasks.values()):
        raise InputError("no task has a share above 0: there is nothing to train")
