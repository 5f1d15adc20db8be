"""The captioners that are trained: which overlay, seed, share and start each has, and what it captions."""

import json
import logging
from functools import cache

import pytest

from gapless.reproduce.connect_collapse_corrupt import members
from gapless.reproduce.connect_collapse_corrupt.members import CaptionMember, Setting


@pytest.fixture(autouse=True)
def files_are_read_once(monkeypatch):
    monkeypatch.setattr(members, "load_tree", cache(members.load_tree))


def test_configurations_are_those_of_the_variant_the_seed_and_the_share(tmp_path):
    setting = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False)
    config = setting.config("c1", "c1", 24)
    assert (config.name, config.output, config.seed) == ("c1-seed24", str(tmp_path / "runs"), 24)
    assert config.features.path == str(tmp_path / "features")
    assert (config.prepare.collapse, config.prepare.noise, config.train.epochs) == (False, 0.0, 8)
    assert setting.config("c2-collapse", "x", 1).prepare.noise == 0
    assert setting.config("c2-corrupt", "x", 1).prepare.collapse is False
    assert setting.config("c2-span", "x", 1).prepare.span_of == ("image", "text")
    assert setting.config("c3", "x", 1).prepare.collapse is True
    assert setting.config("pairs", "x", 1, fraction=0.05).features.modality == "image"
    # Shares below a quarter are gone through as often as makes them one, at most 16 times.
    epochs = {s: setting.config("pairs", "x", 1, fraction=s).train.epochs for s in (0.01, 0.05, 0.1, 0.25, 1.0)}
    assert epochs == {0.01: 128, 0.05: 40, 0.1: 16, 0.25: 8, 1.0: 8}
    assert setting.config("pairs", "x", 1, fraction=0.05).features.fraction == 0.05
    quick = Setting(tmp_path, tmp_path / "features", "emoji", (42,), True)
    assert quick.config("pairs", "x", 1, fraction=0.05).train.epochs == 1
    assert Setting(tmp_path, tmp_path, "coco", (42,), False).config("c1", "x", 1).decoder.name is not None


def test_captions_are_of_test_images_and_shifted_texts(tmp_path):
    setting = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False)
    plan = setting.plan()
    assert (plan.features, plan.modality, plan.split, plan.shift, plan.tokenizer) == (
        *(tmp_path / "features", "image", "test", 0.0, "simple"),
    )
    plan = Setting(tmp_path, tmp_path, "coco", (42,), False).plan("text", 0.5)
    assert (plan.modality, plan.shift, plan.tokenizer) == ("text", 0.5, "auto")


def test_every_variant_is_trained_on_texts_and_captions_images(tmp_path):
    made = Setting(tmp_path, tmp_path / "features", "emoji", (42, 24), False).variants()
    assert {name: list(seeds) for name, seeds in made.items()} == {
        name: [42, 24] for name in ("c1", "c2-collapse", "c2-span", "c2-corrupt", "c3")
    }
    for name, seeds in made.items():
        for seed, member in seeds.items():
            assert (member.name, member.config.seed, member.ending) == (f"{name}-seed{seed}", seed, "")
            assert member.folder == tmp_path / "runs" / f"{name}-seed{seed}"
            assert (member.config.features.modality, member.plan.modality, member.plan.shift) == ("text", "image", 0)
    noise = {name: seeds[42].config.prepare.noise > 0 for name, seeds in made.items()}
    assert noise == {"c1": False, "c2-collapse": False, "c2-span": True, "c2-corrupt": True, "c3": True}


def test_fine_tuning_begins_with_the_decoder_of_texts_of_the_same_seed(tmp_path):
    made = Setting(tmp_path, tmp_path, "emoji", (42, 24), False).low_data()
    assert list(made) == [0.01, 0.05, 0.25, 1.0]
    for share, rows in made.items():
        assert {name: list(seeds) for name, seeds in rows.items()} == {"pairs": [42, 24], "c3": [42, 24]}
        for name, seeds in rows.items():
            for seed, member in seeds.items():
                assert (member.name, member.config.seed) == (f"{name}-{share:g}-seed{seed}", seed)
                assert (member.config.features.fraction, member.config.features.modality) == (share, "image")
                assert member.plan.modality == "image"
                start = str(tmp_path / "runs" / f"c3-seed{seed}")
                assert member.config.decoder.start == (start if name == "c3" else None)


def test_one_decoder_of_texts_is_tested_at_every_length(tmp_path):
    made = Setting(tmp_path, tmp_path, "emoji", (42, 24), False).distances()
    assert list(made) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0]
    for shift, member in made.items():
        assert (member.plan.modality, member.plan.shift) == ("text", shift)
        assert member.name == f"gap-distance-seed42-shift{shift:g}"
        assert member.path == tmp_path / "runs" / "gap-distance-seed42" / f"scores-shift{shift:g}.json"
        assert (member.config.prepare.collapse, member.config.seed) == (False, 42)


def test_the_best_checkpoint_captions_once(monkeypatch, tmp_path, caplog):
    done = []
    setting = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False)
    member = CaptionMember(setting.config("c1", "c1", 42), setting.plan(), "-x")
    run = tmp_path / "runs" / "c1-seed42"
    run.mkdir(parents=True)
    monkeypatch.setattr(members, "train_captioner", lambda c: done.append(c.name) or run)
    monkeypatch.setattr(members, "load_captioner", lambda path: f"captioner of {path}")
    monkeypatch.setattr(members, "write_captions", lambda captioner, p: done.append((captioner, p)) or {"a": "b"})
    monkeypatch.setattr(members, "score_captions", lambda captions, p: ({"cider": 0.5, "num": 1.0}, "simple"))
    monkeypatch.setattr(members, "save_captions", lambda *arguments: done.append(arguments))
    best, scores = run / "checkpoints" / "best", {"cider": 0.5, "num": 1.0}
    with caplog.at_level(logging.INFO):
        assert member.run() == {}
    assert done == [
        "c1-seed42",
        (f"captioner of {best}", member.plan),
        ({"a": "b"}, scores, member.plan, best, run / "results", "simple"),
    ]
    tree = {"tokens": "simple", "scores": scores, "captions": {"a": "b"}}
    assert json.loads((run / "scores-x.json").read_text()) == tree
    assert caplog.messages == ["c1-seed42-x: CIDEr 50.0"]
    assert (member.read(), member.scores) == (tree, scores)
    assert member.run() == {}
    assert done[3:] == ["c1-seed42"]


def test_other_processes_train_and_write_nothing(monkeypatch, tmp_path):
    class Second:
        is_main_process = False

        def wait_for_everyone(self):
            done.append("waited")

    done = []
    setting = Setting(tmp_path, tmp_path / "features", "emoji", (42,), False)
    monkeypatch.setattr(members, "train_captioner", lambda c: done.append(c.name))
    monkeypatch.setattr(members, "PartialState", Second)
    assert CaptionMember(setting.config("c1", "c1", 42), setting.plan()).run() == {}
    assert done == ["c1-seed42", "waited"]
    assert list(tmp_path.iterdir()) == []
