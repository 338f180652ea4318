"""What can be chosen about a training run, and how it is read from a file."""

from __future__ import annotations

import json
import math
import re
import textwrap
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from inference.dataset import QUERY_KINDS, TASKS
from inference.errors import InputError
from inference.inputs import VECTOR_DIM

Encoder = Literal["itemsage", "sum_mlp", "mlp_concat_mlp"]
Loss = Literal["separate", "shared", "in_batch", "random"]
Precision = Literal["float32", "bfloat16"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. The sizes suit a catalogue of thousands on two CPU cores; the paper's are `ItemSageConfig()`.

    The descriptions are those of `docs/model.md` and `sagelift model config`.

    Raises:
        InputError: a value that makes no sense, by name.
    """

    steps: Annotated[int, Meta(description="training steps")] = 200
    batch: Annotated[int, Meta(description="pairs a step, over all processes")] = 512
    random_negatives: Annotated[
        int, Meta(description="products a step drawn evenly from the catalogue, over all processes")
    ] = 512
    learning_rate: Annotated[float, Meta(description="AdamW's, at its highest")] = 1e-3
    warmup_steps: Annotated[
        int, Meta(description="steps of linear warm-up, at most a fifth of all; cosine decay to zero follows")
    ] = 50
    weight_decay: Annotated[float, Meta(description="AdamW's")] = 0.01
    search_steps: Annotated[int, Meta(description="training steps of the search encoder, which is then frozen")] = 150
    seed: Annotated[int, Meta(description="of everything random")] = 7

    tasks: Annotated[
        dict[str, float] | None,
        Meta(
            description="the share of every batch of each task, for instance `image/click`: a query kind (`image` or "
            "`search`) and any engagement that the log names; 0 is evaluated but not trained. Not set: the eight of "
            "the paper, by the square root of their numbers of engagements"
        ),
    ] = None

    images: Annotated[bool, Meta(description="false: a model of texts alone")] = True
    text: Annotated[bool, Meta(description="false: a model of images alone")] = True
    model: Annotated[Encoder, Meta(description="ItemSage, or a baseline to compare with")] = "itemsage"
    loss: Annotated[
        Loss,
        Meta(
            description="`separate`: in-batch and random negatives in two losses, added, as in the paper; `shared`: "
            "one denominator for both; `in_batch`, `random`: one of the two alone"
        ),
    ] = "separate"
    log_q: Annotated[bool, Meta(description="correct for how often each product is drawn")] = True
    prefixes: Annotated[
        tuple[int, ...],
        Meta(description="the loss also on the first so many dimensions, so that a cut-off embedding works too"),
    ] = ()
    prefix_weight: Annotated[float, Meta(description="of each prefix' loss")] = 0.05

    precision: Annotated[
        Precision, Meta(description="of the encoder's matrix products; weights and loss stay float32")
    ] = "float32"
    encoder_chunk: Annotated[
        int,
        Meta(description="a step with more distinct products embeds them in chunks: less memory, computed twice"),
    ] = 2048
    loss_chunk: Annotated[int, Meta(description="candidates whose logits are in memory at once")] = 4096
    checkpoint_every: Annotated[int, Meta(description="steps between checkpoints")] = 200

    unigrams: Annotated[int, Meta(description="largest vocabulary of words")] = 200_000
    bigrams: Annotated[int, Meta(description="largest vocabulary of pairs of words")] = 1_000_000
    trigrams: Annotated[int, Meta(description="largest vocabulary of character trigrams")] = 64_000
    width: Annotated[int, Meta(description="of the transformer; a multiple of heads")] = 256
    heads: Annotated[int, Meta(description="of its attention")] = 4
    feedforward: Annotated[int, Meta(description="its hidden units")] = 1024
    head_hidden: Annotated[int, Meta(description="hidden units of the head")] = 1024
    layers: Annotated[int, Meta(description="of the transformer")] = 1

    def __post_init__(self) -> None:
        for least, names in _AT_LEAST.items():
            for name in names:
                value = getattr(self, name)
                if not (math.isfinite(value) and value >= least):
                    raise InputError(f"{name} ({value}) must be at least {least}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate ({self.learning_rate}) must be above 0")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed ({self.seed}) must lie between 0 and {2**63 - 1}")
        if not self.unigrams + self.bigrams + self.trigrams:
            raise InputError("unigrams, bigrams and trigrams are all 0: no vocabulary would be left")
        if self.width % self.heads:
            raise InputError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
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
            raise InputError(f"task {task!r} must be a query kind ({' or '.join(QUERY_KINDS)}), '/', an engagement")
        if not (math.isfinite(share) and share >= 0):
            raise InputError(f"the share of task {task!r} ({share}) must be a number of at least 0")
    if not any(tasks.values()):
        raise InputError("no task has a share above 0: there is nothing to train")


# ------------------------------------------------------------------------------------------------------------- files


def read_config(path: Path) -> TrainConfig:
    """A configuration from a TOML, YAML or JSON file of `TrainConfig`'s fields; the others keep their defaults.

    Raises:
        InputError: another kind of file, not in its language, an unknown field, a wrong type or value; names file and
            field.
        OSError: the file cannot be read.
    """
    if path.suffix not in (".toml", ".yaml", ".yml", ".json"):
        raise InputError(f"{path}: a training configuration is TOML (.toml), YAML (.yaml, .yml) or JSON (.json)")
    found = _parsed(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold fields and their values, such as steps and seed")
    for name in found:
        if name not in TrainConfig.__struct_fields__:
            close = get_close_matches(str(name), TrainConfig.__struct_fields__, n=1)
            hint = f"did you mean {close[0]}?" if close else "`sagelift model config` lists them"
            raise InputError(f"{path}: {name} is no field of a training configuration; {hint}")
    try:
        return msgspec.convert(found, TrainConfig)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise InputError(f"{path}: {error.__cause__}") from None
        rule, _, place = str(error).partition(" - at `$.")
        raise InputError(f"{path}: {place.rstrip('`') or 'the whole'}: {rule}") from None


def _parsed(path: Path) -> Any:
    import yaml

    kind = path.suffix
    try:
        text = path.read_text(encoding="utf-8")
        if kind == ".toml":
            return tomllib.loads(text)
        if kind == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=_yaml_loader())
    except (ValueError, yaml.YAMLError) as error:
        language = {".toml": "TOML", ".json": "JSON"}.get(kind, "YAML")
        raise InputError(f"{path} is not valid {language}: {' '.join(str(error).split())}") from None


class Field(NamedTuple):
    """One field of the configuration, for people. `default` is TOML, None where the field is not set."""

    name: str
    values: str
    default: str | None
    meaning: str


def fields() -> Iterator[Field]:
    """All fields of `TrainConfig`, in order."""
    for field in msgspec.structs.fields(TrainConfig):
        kind, about = get_args(field.type)
        default = None if field.default is None else json.dumps(field.default)  # plain JSON values are TOML too
        yield Field(field.name, _values(kind), default, str(about.description))


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    words = {int: "integer", float: "number", bool: "true, false", tuple[int, ...]: "list of integers"}
    return words.get(kind, "table of numbers")


def as_table() -> str:
    """The fields as a table in Markdown (`docs/model.md`)."""
    lines = ["| field | values | default | meaning |", "|---|---|---|---|"]
    for name, values, default, meaning in fields():
        lines.append(f"| `{name}` | {values} | {'not set' if default is None else f'`{default}`'} | {meaning} |")
    return "\n".join(lines) + "\n"


def as_toml() -> str:
    """All fields with their defaults and meanings, as a TOML file to start from."""
    lines: list[str] = []
    for name, values, default, meaning in fields():
        lines += [f"# {line}" for line in textwrap.wrap(f"{meaning} ({values})", 100)]
        lines += [f"# {name} is not set" if default is None else f"{name} = {default}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _yaml_loader() -> Any:
    """PyYAML reads 1e-3 as text, after YAML 1.1; here it is the number that YAML 1.2, TOML and JSON take it for."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    return Loader
