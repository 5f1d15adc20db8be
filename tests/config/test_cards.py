"""Every command on the cards of configs/ works, made small: other sizes, data and models in their places."""

import shlex
from pathlib import Path

import pytest
import yaml

from gapless.cli import parse
from gapless.cli.verbs import verb_of
from gapless.models import check_model
from gapless.sweep import load_sweep
from tests.data.pictures import write_coco
from tests.runs import TINY, run, tiny_config, write_config

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "configs").rglob("*.yaml"))
SMALL = [
    *(
        "--model.name=custom",
        "--model.pretrained=null",
        f"--model.architecture={yaml.safe_dump(TINY, default_flow_style=True)}",
    ),
    *("--data.batch_size=4", "--data.train_samples=8", "--data.val_samples=3", "--data.workers=0"),
]
SMALL_EMBEDDINGS = ["--splits=[train, val]", "--data.train_samples=40", "--data.val_samples=9", "--data.workers=0"]
SIZES = "{n_layer: 1, n_head: 1, n_embd: 8}"
SMALL_CAPTIONS = [
    *("--decoder.name=null", f"--decoder.architecture={SIZES}", "--decoder.vocab_size=300", "--train.epochs=1"),
    *("--features.batch_size=8", "--features.fraction=0.2", "--checkpoint.every_minutes=null"),
]


def commands(path):
    """Every command of gapless in the comment that opens a file, as words from the verb on."""
    lines = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in joined if line.startswith(("gapless ", "./launch.sh "))]


COMMANDS = [(path, words) for path in CARDS for words in commands(path)]
NAMES = [f"{path.relative_to(ROOT / 'configs')} {' '.join(words)}" for path, words in COMMANDS]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder beside a copy of configs/ with what the cards need: a run, COCO, embeddings, a captioner."""
    folder = tmp_path_factory.mktemp("cards")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_coco(folder / "coco")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("train", "--config", str(write_config(tiny_config(Path("runs"), train__epochs=1), folder / "c.yaml")))
        for name in ("emoji-pretrain", "three-d-emoji"):
            (folder / "runs" / name).symlink_to("tiny")
        run("caption", "embed", "runs/tiny", "--output=runs/emoji-features", *SMALL_EMBEDDINGS)
        base = ["--config=configs/caption/emoji.yaml", *SMALL_CAPTIONS]
        run("caption", "train", *base, "--config=configs/caption/c3.yaml")
    return folder


def test_every_card_has_commands():
    assert [path for path in CARDS if not commands(path)] == []
    assert len(COMMANDS) > len(CARDS)


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=NAMES)
def test_a_command_names_what_exists(path, words, place, monkeypatch):
    monkeypatch.chdir(place)
    verb = verb_of(words)
    arguments = parse(verb, words[len(verb.split()) :])
    if verb == "train" and arguments.model.name != "custom" and not arguments.model.name.startswith("local-dir:"):
        check_model(arguments.model.name, arguments.model.pretrained or "none")
    if verb == "caption embed" and arguments.model != "RUN":
        check_model(arguments.model, arguments.pretrained)
    if verb == "sweep":
        assert load_sweep(arguments.file).method in ("grid", "bayes")
    if path.parent.name != "sweeps" and "--config" in words:
        assert f"configs/{path.parent.name}/{path.name}" in words


TRAIN = [(words, name) for (_, words), name in zip(COMMANDS, NAMES, strict=True) if words[0] == "train"]


@pytest.mark.parametrize("words", [words for words, _ in TRAIN], ids=[name for _, name in TRAIN])
def test_doctor_finds_nothing_wrong_with_a_training(words, place, monkeypatch):
    monkeypatch.chdir(place)
    run("doctor", *[word.replace("/path/to/coco", "coco") for word in words[1:]], *SMALL)


CAPTIONS = [path for path in CARDS if path.parent.name == "caption"]


@pytest.mark.parametrize("path", CAPTIONS, ids=[path.stem for path in CAPTIONS])
def test_a_captioners_commands_work_in_their_order(path, place, monkeypatch):
    monkeypatch.chdir(place)
    for words in commands(path):
        words = [word.replace("/data/coco", "coco") for word in words if not word.startswith("--pretrained=")]
        words = ["runs/tiny" if word in ("RUN", "ViT-B-32-quickgelu") else word for word in words]
        small = {
            "embed": SMALL_EMBEDDINGS,
            "train": [*SMALL_CAPTIONS, "--fresh"],
            "eval": ["--tokenizer=simple", "--show=0", "--split=val"],
        }
        run(*words, *small[words[1]])
