"""`sagelift model`: from the installation's data to a run, its figures, a release on disk; and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from experiments.event_rows import EventRow
from feature_repo.rows import TEXT_FIELDS, Deletion, ProductFeatures
from inference.releases.release import load_release
from inference.releases.repository import live_version
from inference.training.config import TrainConfig
from inference.training.config_file import as_table, as_toml, read_config
from inference.training.engagements import Engagement
from inference.training.pairs import Pairs
from inference.training.pipeline import train
from inference.training.result import TrainedModel
from inference.training.run import evaluate_run
from sagelift.commands import cli
from sagelift.runs import data_as_of
from sagelift.services import Services
from sagelift.settings import load_settings
from tests.inference.builders import catalogue, engagements

PAGE = Path(__file__).parents[3] / "docs" / "operators" / "models.md"
SMALL = """
steps = 5
batch = 32
random_negatives = 20
search_steps = 2
width = 32
feedforward = 32
head_hidden = 32
"""
TASKS = ["image/click", "image/save", "image/add_to_cart", "search/click"]


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


class Installation:
    """A state folder, and the command line in it."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def sagelift(self, *arguments: str) -> Done:
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("SAGELIFT_STATE_DIR", str(self.state))
            patch.setattr(sys, "argv", ["sagelift", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    def model(self, *arguments: str) -> Done:
        return self.sagelift("model", *arguments)

    @property
    def runs(self) -> Path:
        return self.state / "runs"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Sixty products in the feature store, engagements in the experiment database, and `small.toml`."""
    state = tmp_path_factory.mktemp("shop")
    now = datetime(2026, 3, 1, tzinfo=UTC)
    with Services(load_settings(state_dir=state)) as services:
        services.features.write_features(
            [
                ProductFeatures(
                    id=p.id,
                    version=1,
                    event_time=now,
                    text=dict.fromkeys(TEXT_FIELDS, "") | p.text,
                    image_urls=[f"https://shop.example/{p.id}/{i}.jpg" for i in range(len(p.images))],
                    image_hashes=[f"{p.id}-{i}" for i in range(len(p.images))],
                    image_vectors=p.images,
                    visual_version="test",
                )
                for p in catalogue()
            ]
        )
        services.experiments.write_events([event(number, e) for number, e in enumerate(engagements())])
    (state / "small.toml").write_text(SMALL)
    return Installation(state)


def event(number: int, engagement: Engagement) -> EventRow:
    return EventRow(
        event_id=str(number),
        kind="add_to_cart" if engagement.action == "checkout" else engagement.action,
        unit_id=f"unit-{number}",
        event_time=1_770_000_000_000_000 + number,
        surface=engagement.kind,
        query=engagement.query,
        product_id=engagement.product_id,
    )


@pytest.fixture(scope="module")
def trained(shop: Installation) -> Done:
    """A run of three steps."""
    return shop.model("train", "--config", str(shop.state / "small.toml"), "--steps", "3", "--device", "cpu")


def newest(shop: Installation) -> Path:
    return max(shop.runs.glob("*Z"))


# ---------------------------------------------------------------------------------------------------------- training


def test_training_prints_the_recall_of_every_task_and_where_the_run_is(shop: Installation, trained: Done) -> None:
    assert trained.code == 0, trained.err
    run, losses = (line.split(maxsplit=1)[1] for line in trained.out.splitlines()[:2])
    assert run == str(newest(shop))
    assert Path(losses).read_text().lstrip().startswith("<?xml")
    result = TrainedModel.load(Path(run)).result
    assert list(result.itemsage.recall) == TASKS
    rows = [
        *((t, result.itemsage.pairs[t], result.itemsage.recall[t], result.sum.recall[t]) for t in TASKS),
        ("mean of the tasks", "", result.itemsage.mean_recall, result.sum.mean_recall),
        ("coverage", "", result.itemsage.coverage, result.sum.coverage),
    ]
    for name, pairs, itemsage, by_sum in rows:
        assert re.search(rf"^ *{name} +{pairs} +{itemsage:.3f} +{by_sum:.3f} *$", trained.out, re.M), name


def test_the_file_is_the_configuration_and_options_go_before_it(shop: Installation, trained: Done) -> None:
    config = TrainedModel.load(newest(shop)).config
    assert (config.width, config.batch, config.steps, config.seed) == (32, 32, 3, TrainConfig().seed)
    done = shop.model("train", "--config", str(shop.state / "small.toml"), "--seed", "11", "--json")
    answer = json.loads(done.out)
    assert Path(answer["run"]) == newest(shop)
    assert len(answer["result"]["loss"]) == 5
    assert TrainedModel.load(newest(shop)).config.seed == 11


def test_training_as_of_the_time_of_an_older_run_gives_its_weights(shop: Installation, trained: Done) -> None:
    """A run without `--as-of` records its time; a later training as of that time gives equal weights."""
    small = ("--config", str(shop.state / "small.toml"), "--steps", "3", "--device", "cpu")
    run = Path(trained.out.splitlines()[0].removeprefix("run "))
    first, moment = TrainedModel.load(run), data_as_of(run)
    assert moment is not None
    with Services(load_settings(state_dir=shop.state)) as services:
        late = ProductFeatures(id="late", version=1, event_time=datetime(2026, 3, 1, tzinfo=UTC))
        services.features.write_features([late])
    try:
        done = shop.model("train", *small, "--as-of", moment, "--json")
        assert done.code == 0, done.err
        answer = json.loads(done.out)
        again = TrainedModel.load(Path(answer["run"]))
        assert answer["as_of"] == moment
        assert again.result.loss == first.result.loss
        weights = first.encoder.state_dict()
        assert all(value.equal(weights[name]) for name, value in again.encoder.state_dict().items())
    finally:
        with Services(load_settings(state_dir=shop.state)) as services:
            gone = Deletion(id="late", version=2, event_time=datetime(2026, 3, 1, tzinfo=UTC))
            services.features.delete([gone])


def test_an_unfinished_run_is_named_and_can_be_finished(shop: Installation, trained: Done) -> None:
    """By its name and by its folder; afterwards it is a run like others, and can be asked for once more."""
    small = ("--config", str(shop.state / "small.toml"))
    prepared = json.loads(shop.model("train", *small, "--prepare-only", "--json").out)
    run = Path(prepared["run"])
    assert prepared["command"][0] == "torchrun"
    assert prepared["command"][-3:] == ["-m", "inference.training", str(run)]
    assert not run.exists()
    how = f"sagelift model train --resume {run.name}"
    trained_again = shop.model("train", *small, "--steps", "1")
    assert f"was interrupted; to resume it: {how}\n" in trained_again.err
    assert how in shop.model("evaluate", run.name).err
    done = shop.model("train", "--resume", str(run) + ".partial")
    assert (done.code, done.out.splitlines()[0]) == (0, f"run {run}"), done.err
    assert len(TrainedModel.load(run).result.loss) == 5
    assert shop.model("train", "--resume", run.name).out == done.out
    assert "was interrupted; to resume" not in shop.model("train", *small, "--steps", "1").err


def test_preparing_prints_the_command_alone_on_stdout(shop: Installation) -> None:
    done = shop.model("train", "--config", str(shop.state / "small.toml"), "--prepare-only")
    match = re.fullmatch(r"torchrun --standalone --nproc-per-node \d+ -m inference\.training (.+)\n", done.out)
    assert match, done.out
    run = Path(match[1])
    assert f"sagelift model train --resume {run.name}" in done.err
    assert (run.with_name(run.name + ".partial") / "data" / "pairs.parquet").is_file()
    shutil.rmtree(run.with_name(run.name + ".partial"))


# -------------------------------------------------------------------------------------------- evaluating, exporting


def test_evaluating_gives_the_figures_that_the_run_reported(shop: Installation, trained: Done) -> None:
    run = Path(trained.out.splitlines()[0].removeprefix("run "))
    reported = json.loads((run / "metrics.json").read_text())
    for wanted in (run.name, str(run)):
        answer = json.loads(shop.model("evaluate", wanted, "--json").out)
        assert (answer["run"], answer["model"], answer["k"]) == (str(run), "itemsage", 10)
        for model in ("itemsage", "sum"):
            for name in ("recall", "pairs", "mean_recall", "coverage"):
                assert answer[model][name] == pytest.approx(reported[model][name], abs=1e-9), (model, name)
    table = trained.out.splitlines()[2:]
    assert shop.model("evaluate", run.name).out.splitlines()[1:] == table


def test_the_card_of_a_run_is_printed_or_written(shop: Installation, trained: Done, tmp_path: Path) -> None:
    run = TrainedModel.load(newest(shop))
    card = shop.model("card").out
    assert card.startswith(f"# Run {newest(shop).name}\n")
    assert f"`steps = {run.config.steps}`" in card
    for task, recall in run.result.itemsage.recall.items():
        assert f"| {task} | {run.result.itemsage.pairs[task]:,} | {recall:.3f} | " in card
    done = shop.model("card", newest(shop).name, "--out", str(tmp_path / "card.md"))
    assert (done.out, done.err) == ("", f"card: {tmp_path / 'card.md'}\n")
    assert (tmp_path / "card.md").read_text() == card
    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]


def test_evaluating_takes_the_newest_run_and_another_k(shop: Installation, trained: Done) -> None:
    done = shop.model("evaluate", "--k", "1")
    assert done.out.startswith(f"run {newest(shop)}\n")
    assert "Recall@1 " in done.out
    assert f"{evaluate_run(newest(shop), 1).itemsage.mean_recall:.3f}" in done.out


def test_exporting_writes_a_release_that_is_not_live(shop: Installation, trained: Done, tmp_path: Path) -> None:
    run = TrainedModel.load(newest(shop))
    first = json.loads(shop.model("export", "--to", str(tmp_path / "models"), "--no-visual-encoder", "--json").out)
    assert first == {"version": "1", "path": str(tmp_path / "models" / "itemsage" / "1")}
    model, tokenizer, config = load_release(Path(first["path"]))
    assert all(value.equal(run.model.state_dict()[name]) for name, value in model.state_dict().items())
    assert tokenizer.size == run.tokenizer.size
    assert config.metadata["run"] == newest(shop).name
    assert config.metadata["data_as_of"] == data_as_of(newest(shop))
    assert config.metadata["data_as_of"] is not None
    assert config.metadata["mean_recall_at_10"] == run.result.itemsage.mean_recall
    assert (Path(first["path"]) / "search.safetensors").is_file()
    assert live_version(tmp_path / "models") is None
    second = shop.model("export", newest(shop).name, "--to", str(tmp_path / "models"))
    assert second.out == f"release 2  {tmp_path / 'models' / 'itemsage' / '2'}\n"
    assert (tmp_path / "models" / "visual_encoder" / "1" / "model.safetensors").is_file()


def test_exporting_to_the_own_repository_says_how_to_make_it_live(shop: Installation, trained: Done) -> None:
    done = shop.model("export", "--no-visual-encoder")
    version = done.out.split()[1]
    assert f"sagelift model live {version}" in done.err
    assert shop.model("list").out.splitlines()[-1] == f"  {version}  {shop.state / 'models' / 'itemsage' / version}"


# ------------------------------------------------------------------------------------------------------ what fails


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("train", "--steps", "0"), 2, "--steps"),
        (("train", "--seed", "-1"), 2, "--seed"),
        (("train", "--device", "tpu"), 2, "tpu"),
        (("train", "--resume", "x", "--steps", "9"), 2, "leave out --config, --steps"),
        (("train", "--resume", "x", "--prepare-only"), 2, "leave out --config, --steps"),
        (("train", "--resume", "x", "--as-of", "2026-03-01T12:00Z"), 2, "leave out --config, --steps"),
        (("train", "--as-of", "yesterday"), 2, "'yesterday' is not a time; write 2026-03-01T12:00:00Z"),
        (("train", "--as-of", "2026-03-01T12:00"), 2, "'2026-03-01T12:00' has no time zone"),
        (("train", "--as-of", "2026-03-01T12:00Z"), 3, "no product was known at 2026-03-01T12:00:00+00:00"),
        (("train", "--resume", "nothing"), 3, "no training run 'nothing'"),
        (("train", "--config", "missing.toml"), 3, "missing.toml: No such file"),
        (("evaluate", "--k", "0"), 2, "--k"),
        (("evaluate", "nothing"), 3, "no training run 'nothing'"),
        (("export", "nothing", "--to", "x"), 3, "no training run 'nothing'"),
        (("release", "--run", "nothing"), 3, "no training run 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    shop: Installation, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = sorted(shop.runs.glob("*"))
    done = shop.model(*arguments)
    assert done.code == code, done.err
    assert said in re.sub(r"[\s│]+", " ", done.err)
    assert sorted(shop.runs.glob("*")) == before


def test_a_wrong_configuration_is_refused_by_file_and_field(shop: Installation, tmp_path: Path) -> None:
    before = sorted(shop.runs.glob("*"))
    file = tmp_path / "wrong.toml"
    file.write_text("stepps = 4")
    done = shop.model("train", "--config", str(file))
    assert done == Done(
        3, "", f"sagelift: {file}: stepps is not a field of a training configuration; did you mean steps?\n"
    )
    file.write_text("steps = 0")
    done = shop.model("train", "--config", str(file))
    assert done == Done(3, "", f"sagelift: {file}: steps (0) must be at least 1\n")
    assert sorted(shop.runs.glob("*")) == before


def test_cuda_is_refused_on_a_machine_without_it(shop: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = shop.model("train", "--device", "cuda")
    assert done.code == 3
    assert "PyTorch finds no GPU" in done.err


def test_a_run_without_its_training_set_is_not_evaluated(shop: Installation) -> None:
    config = read_config(shop.state / "small.toml")
    run = shop.runs / "in-memory"
    train(catalogue(), engagements(), msgspec.structs.replace(config, steps=1)).save(run)
    done = shop.model("evaluate", "in-memory")
    assert done.code == 3
    assert "it was trained in memory" in done.err
    shutil.rmtree(run)


def test_a_baseline_is_evaluated_but_not_exported(shop: Installation, tmp_path: Path) -> None:
    file = tmp_path / "mlp.json"
    file.write_text(json.dumps({"model": "sum_mlp", "steps": 1, "search_steps": 1, "head_hidden": 32}))
    assert "Sum-MLP" in shop.model("train", "--config", str(file)).out
    assert "Sum-MLP" in shop.model("evaluate").out
    done = shop.model("export", "--to", str(tmp_path / "models"))
    assert done.code == 3
    assert "only ItemSage with images and text can be released" in done.err
    assert not (tmp_path / "models").exists()
    shutil.rmtree(newest(shop))


def test_without_any_run_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    for command in ("evaluate", "export"):
        done = Installation(tmp_path).model(command)
        assert (done.code, done.out) == (3, "")
        assert "train one with `sagelift model train`" in done.err


# ---------------------------------------------------------------------------------------------------------- the page


def test_the_fields_in_the_page_are_those_of_the_configuration(shop: Installation) -> None:
    table = shop.model("config", "--markdown").out
    assert table == as_table()
    assert table in PAGE.read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(TrainConfig.__struct_fields__)


def test_the_printed_configuration_is_the_default_one(shop: Installation, tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text(shop.model("config").out)
    assert (tmp_path / "all.toml").read_text() == as_toml()
    assert read_config(tmp_path / "all.toml") == TrainConfig()


@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_the_configurations_in_the_page_are_valid(language: str, tmp_path: Path) -> None:
    examples = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert examples
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.{language}"
        file.write_text(example)
        assert read_config(file) != TrainConfig()


def test_the_programs_in_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a catalogue and a log that name what the page's own names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.toml").write_text(SMALL)
    names: dict[str, Any] = {"products": catalogue(), "engagements": engagements()}
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert programs
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
    pairs = Pairs.load(tmp_path / "runs" / "with-rent" / "data")
    assert (pairs.task == pairs.tasks.index("search/rent")).sum() == 1


def test_an_export_as_onnx_names_what_is_missing(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "state")
    done = installation.model("export-onnx", str(tmp_path / "onnx"))
    assert (done.code, "has no live release" in done.err) == (3, True)
    done = installation.model("export-onnx", str(tmp_path / "onnx"), "--release", "7")
    assert (done.code, "there is no release '7'" in done.err) == (3, True)
    assert not (tmp_path / "onnx").exists()
