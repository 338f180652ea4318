"""The options of a training run."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from inference.errors import InputError
from inference.inputs import VECTOR_DIM
from inference.training.engagements import QUERY_KINDS, TASKS

EncoderName = Literal["itemsage", "sum_mlp", "mlp_concat_mlp"]
Loss = Literal["separate", "shared", "in_batch", "random"]
Precision = Literal["float32", "bfloat16"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a training run.

    The default sizes suit a catalogue of thousands of products on two CPU cores; the paper's are `ItemSageConfig()`.
    `sagelift model config` prints the descriptions, and `docs/operators/models.md` repeats them.

    Raises:
        InputError: If a value is out of range; names the field.
    """

    steps: Annotated[int, Meta(description="training steps")] = 200
    batch: Annotated[int, Meta(description="pairs per step, over all processes")] = 512
    random_negatives: Annotated[
        int, Meta(description="random products of the catalogue per step, over all processes")
    ] = 512
    learning_rate: Annotated[float, Meta(description="highest learning rate of AdamW")] = 1e-3
    warmup_steps: Annotated[
        int, Meta(description="steps of linear warm-up, at most a fifth of all steps; then cosine decay to zero")
    ] = 50
    weight_decay: Annotated[float, Meta(description="weight decay of AdamW")] = 0.01
    search_steps: Annotated[
        int, Meta(description="training steps of the search encoder, which is frozen afterwards")
    ] = 150
    seed: Annotated[int, Meta(description="random seed")] = 7

    tasks: Annotated[
        dict[str, float] | None,
        Meta(
            description="share of every batch by task. A task is a query kind (`image` or `search`) and an engagement "
            "of the log, for instance `image/click`. A task with share 0 is evaluated but not trained. If not set: the "
            "eight tasks of the paper, by the square root of their numbers of engagements"
        ),
    ] = None

    images: Annotated[bool, Meta(description="whether the model sees images")] = True
    text: Annotated[bool, Meta(description="whether the model sees text")] = True
    model: Annotated[EncoderName, Meta(description="ItemSage, or a baseline to compare it with")] = "itemsage"
    loss: Annotated[
        Loss,
        Meta(
            description="`separate`: the sum of two losses, one with in-batch and one with random negatives, as in the "
            "paper; `shared`: one denominator for both; `in_batch`, `random`: only one of the two losses"
        ),
    ] = "separate"
    log_q: Annotated[bool, Meta(description="whether to correct for how often each product is drawn")] = True
    prefixes: Annotated[
        tuple[int, ...],
        Meta(description="numbers of leading dimensions that also get a loss, so that truncated embeddings work"),
    ] = ()
    prefix_weight: Annotated[float, Meta(description="weight of the loss of each prefix")] = 0.05

    precision: Annotated[
        Precision, Meta(description="precision of the encoder's matrix products; weights and loss stay float32")
    ] = "float32"
    encoder_chunk: Annotated[
        int,
        Meta(
            description="a step with more distinct products embeds them in chunks: it needs less memory, but computes "
            "them twice"
        ),
    ] = 2048
    loss_chunk: Annotated[int, Meta(description="number of candidates whose logits are in memory at once")] = 4096
    checkpoint_every: Annotated[int, Meta(description="steps between checkpoints")] = 200

    unigrams: Annotated[int, Meta(description="largest number of words in the vocabulary")] = 200_000
    bigrams: Annotated[int, Meta(description="largest number of word pairs in the vocabulary")] = 1_000_000
    trigrams: Annotated[int, Meta(description="largest number of character trigrams in the vocabulary")] = 64_000
    width: Annotated[int, Meta(description="width of the transformer; a multiple of heads")] = 256
    heads: Annotated[int, Meta(description="attention heads of the transformer")] = 4
    feedforward: Annotated[int, Meta(description="hidden units of the transformer")] = 1024
    head_hidden: Annotated[int, Meta(description="hidden units of the head")] = 1024
    layers: Annotated[int, Meta(description="layers of the transformer")] = 1

    def __post_init__(self) -> None:
        for least, names in _AT_LEAST.items():
            for name in names:
                value = getattr(self, name)
                if not (math.isfinite(value) and value >= least):
                    raise InputError(f"{name} ({value}) must be at least {least}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate ({self.learning_rate}) must be above 0")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed ({self.seed}) must be between 0 and {2**63 - 1}")
        if not self.unigrams + self.bigrams + self.trigrams:
            raise InputError("unigrams, bigrams and trigrams are all 0: the vocabulary would be empty")
        if self.width % self.heads:
            raise InputError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        for name, choices in (("model", EncoderName), ("loss", Loss), ("precision", Precision)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(f"{name} ({getattr(self, name)!r}) must be one of {', '.join(get_args(choices))}")
        if not (self.images or self.text):
            raise InputError("images and text are both false: the model would see nothing of a product")
        if wrong := [p for p in self.prefixes if not 1 <= p < VECTOR_DIM]:
            raise InputError(f"prefixes ({wrong[0]}) must be between 1 and {VECTOR_DIM - 1} dimensions")
        if self.tasks is not None:
            _check_tasks(self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks that the engagements may belong to."""
        return TASKS if self.tasks is None else tuple(self.tasks)


_AT_LEAST = {
    1: (
        *("steps", "batch", "random_negatives", "search_steps", "encoder_chunk", "loss_chunk", "checkpoint_every"),
        *("width", "heads", "feedforward", "head_hidden", "layers"),
    ),
    0: ("warmup_steps", "weight_decay", "prefix_weight", "unigrams", "bigrams", "trigrams"),
}


def _check_tasks(tasks: dict[str, float]) -> None:
    for task, share in tasks.items():
        kind, _, action = task.partition("/")
        if kind not in QUERY_KINDS or not action:
            raise InputError(f"task {task!r} must be a query kind ({' or '.join(QUERY_KINDS)}), '/' and an engagement")
        if not (math.isfinite(share) and share >= 0):
            raise InputError(f"the share of task {task!r} ({share}) must be a number of at least 0")
    if not any(tasks.values()):
        raise InputError("no task has a share above 0: there is nothing to train")
