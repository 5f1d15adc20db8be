"""What is captioned, with what, how it is scored and where it is written, with a captioner made by hand."""

import json
import logging
import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from gapless.decode import Decoding, Preparation, save_features, save_means
from gapless.decode.captions import evaluate as room
from gapless.decode.captions.evaluate import CaptionPlan, check_plan, save_captions, score_captions, write_captions
from gapless.decode.transforms import orthogonal_shift
from gapless.errors import ConfigError, DataError
from gapless.eval.results import load_result

D = 4
ROWS = torch.tensor([[3.0, 0, 4, 0], [0, 1, 0, 0], [0, 0, 2, 1], [1, 1, 1, 1]])
IDS = ["a", "b", "c", "a"]
VAL = torch.tensor([[1.0, 2, 3, 4]])


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    save_features(folder, "image", "test", IDS, ROWS, model="digest")
    save_features(folder, "image", "val", ["v"], VAL, model="digest")
    save_features(folder, "image", "train", ["t"], torch.tensor([[0.0, 0, 0, 1]]), model="digest")
    texts = {"test": (["c", "b", "b", "a"], ["c one", "b one", "b two", "a one"]), "val": (["v"], ["v one"])}
    for split, (ids, captions) in texts.items():
        save_features(folder, "text", split, ids, torch.ones(len(ids), D), captions, "digest")
    return folder


class Speaker(torch.nn.Module):
    """Notes what it is asked for, and says the position of each row."""

    def __init__(self, preparation=None, space=""):
        super().__init__()
        self.preparation, self.space, self.asked = preparation or Preparation(collapse=False), space, []

    def generate(self, embedding, modality, decoding, shift, progress):
        self.asked.append((embedding, modality, decoding, shift, self.training, torch.rand(1).item()))
        progress(len(embedding))
        return [f"caption {k}" for k in range(len(embedding))]


def test_every_id_is_captioned_once_from_its_first_row(store):
    speaker = Speaker().train()
    decoding = Decoding("beam", beams=7)
    captions = write_captions(speaker, CaptionPlan(store, decoding=decoding, seed=4))
    assert captions == {"a": "caption 0", "b": "caption 1", "c": "caption 2"}
    ((embedding, modality, used, shift, training, drawn),) = speaker.asked
    torch.testing.assert_close(embedding, F.normalize(ROWS[:3], dim=1))
    assert (modality, used, shift, training) == ("image", decoding, None, False)
    assert drawn == torch.rand(1, generator=torch.Generator().manual_seed(4)).item()


def test_split_modality_and_ids_are_the_plans(store):
    speaker = Speaker()
    assert write_captions(speaker, CaptionPlan(store, split="val")) == {"v": "caption 0"}
    torch.testing.assert_close(speaker.asked[0][0], F.normalize(VAL, dim=1))
    assert list(write_captions(speaker, CaptionPlan(store, modality="text"))) == ["c", "b", "a"]
    assert speaker.asked[1][1] == "text"
    save_features(store, "image", "val", ["7", "8", "9"], ROWS[:3], model="digest")
    captions = write_captions(speaker, CaptionPlan(store, split="val", ids=["9", 7, "9"]))
    assert captions == {"9": "caption 0", "7": "caption 1"}
    torch.testing.assert_close(speaker.asked[2][0], F.normalize(ROWS[[2, 0]], dim=1))


def test_a_shift_is_orthogonal_to_all_that_was_prepared(store):
    means = {"image": torch.tensor([0.5, 0, 0, 0])}
    preparation = Preparation(collapse=True, renormalise=False, means=means)
    speaker = Speaker(preparation)
    write_captions(speaker, CaptionPlan(store, ids=["b"], shift=2.0))
    shift = speaker.asked[0][3]
    torch.testing.assert_close(shift, orthogonal_shift(F.normalize(ROWS, dim=1) - means["image"], 2.0))
    assert float(shift.norm()) == pytest.approx(2.0)


def test_the_mean_of_a_modality_that_was_not_learned_is_that_of_the_training_rows(store):
    text = {"text": torch.ones(D)}
    for means, collapse, expected in (
        (text, True, torch.tensor([0.0, 0, 0, 1])),
        (text, False, None),
        (text | {"image": torch.full((D,), 0.25)}, True, torch.full((D,), 0.25)),
    ):
        speaker = Speaker(Preparation(collapse=collapse, means=means))
        write_captions(speaker, CaptionPlan(store))
        found = speaker.preparation.means.get("image")
        assert (found is None) == (expected is None)
        if expected is not None:
            assert torch.equal(found, expected)
        assert torch.equal(speaker.preparation.means["text"], torch.ones(D))
    save_means(store, {"image": torch.full((D,), 0.125)}, "digest")
    speaker = Speaker(Preparation(means=text))
    write_captions(speaker, CaptionPlan(store))
    assert torch.equal(speaker.preparation.means["image"], torch.full((D,), 0.125))


def test_a_captioner_of_another_space_is_refused(store):
    write_captions(Speaker(space="digest"), CaptionPlan(store))
    with pytest.raises(DataError, match="another model than the captioner learned from"):
        write_captions(Speaker(space="other"), CaptionPlan(store))


def test_captions_are_scored_against_the_texts_of_their_ids_and_split(store, monkeypatch, caplog):
    asked = []

    def scores(captions, references, tokenizer):
        asked.append((captions, references, tokenizer))
        return {"cider": 0.5}, "simple"

    monkeypatch.setattr(room, "caption_scores", scores)
    captions = {"a": "x", "b": "x", "c": "z", "unknown": "w"}
    found, tokens = score_captions(captions, CaptionPlan(store, tokenizer="simple"))
    assert asked == [
        (
            {"a": "x", "b": "x", "c": "z"},
            {"a": ["a one"], "b": ["b one", "b two"], "c": ["c one"]},
            "simple",
        )
    ]
    assert tokens == "simple"
    assert found == {"cider": 0.5, "num_compared": 3.0, "num_captions": 4.0, "num_different": 3.0}
    assert caplog.messages == []
    found, _ = score_captions({"v": "x"}, CaptionPlan(store, split="val"))
    assert asked[1][:2] == ({"v": "x"}, {"v": ["v one"]})
    output = "cider is 0 for a single image by its formula: words that all references share count nothing"
    assert caplog.messages == [output]


def test_without_texts_the_numbers_are_those_of_the_captions(store, caplog):
    caplog.set_level(logging.INFO, "gapless")
    found, tokens = score_captions({"t": "x"}, CaptionPlan(store, split="train"))
    assert (found, tokens) == ({"num_captions": 1.0, "num_different": 1.0}, "none")
    assert caplog.messages == [f"{store} has no texts of image_train to compare with"]
    found, tokens = score_captions({"unknown": "x"}, CaptionPlan(store))
    assert (found, tokens) == ({"num_captions": 1.0, "num_different": 1.0}, "none")


class Clip:
    """A suite whose text features are given."""

    def __init__(self, texts, loaded=None):
        self.texts, self.loaded, self.asked = texts, SimpleNamespace(model="model"), []

    def words(self, words):
        self.asked.append(list(words))
        return self.texts


def test_clip_score_is_of_each_caption_and_its_own_picture(store, monkeypatch):
    loaded = []
    texts = {"x": torch.tensor([1.0, 0, 0, 0]), "y": torch.tensor([0.0, 0, 1, 0])}
    monkeypatch.setattr(room, "load_model", lambda *names: (loaded.append(names), names)[1])
    monkeypatch.setattr(room, "Suite", lambda loaded: Clip(texts))
    monkeypatch.setattr(room, "weights_digest", lambda model: "digest" if model == "model" else "")
    plan = CaptionPlan(store, tokenizer="simple", clip="ViT-B-32", clip_pretrained="openai")
    found, _ = score_captions({"c": "y", "a": "x"}, plan)
    assert loaded == [("ViT-B-32", "openai")]
    # c and y are 2 / sqrt 5 alike, a and x 3 / 5.
    assert found["clip_score"] == pytest.approx(2.5 * (2 / 5**0.5 + 0.6) / 2)
    assert found["num_compared"] == 2.0
    texts["x"] = torch.ones(D + 1)
    texts["y"] = torch.ones(D + 1)
    with pytest.raises(DataError) as error:
        score_captions({"c": "y", "a": "x"}, plan)
    assert str(error.value) == f"clip: ViT-B-32 has 5 dimensions, {store} 4"
    monkeypatch.setattr(room, "weights_digest", lambda model: "other")
    with pytest.raises(DataError) as error:
        score_captions({"c": "y"}, plan)
    assert str(error.value) == f"clip: {store} holds embeddings of another model than ViT-B-32"


def test_a_plan_that_leaves_nothing_is_refused(store):
    check_plan(CaptionPlan(store, ids=None))
    check_plan(CaptionPlan(store, ids=["a"]))
    with pytest.raises(ConfigError) as error:
        check_plan(CaptionPlan(store, ids=[]))
    assert str(error.value) == "ids: [] leaves nothing to caption; null stands for all"
    with pytest.raises(ConfigError, match="shift"):
        check_plan(CaptionPlan(store, shift=float("nan")))


def test_captions_and_scores_are_written_with_all_that_they_depend_on(store, tmp_path):
    run = tmp_path / "runs" / "mine"
    (run / "export").mkdir(parents=True)
    captions = {"b": "zwei Hündchen", "a": "a car"}
    plan = CaptionPlan(store, split="val")
    path = save_captions(captions, {"cider": 0.5}, plan, run, run / "results", "simple")
    assert path == run / "results" / "captions" / "store-image-val__mine_en_captioning.json"
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == [{"image_id": "b", "caption": "zwei Hündchen"}, {"image_id": "a", "caption": "a car"}]
    assert "ü" in text
    result = load_result(run / "results" / path.name)
    assert (result.dataset, result.task, result.metrics) == ("store-image-val", "captioning", {"cider": 0.5})
    assert (result.model, result.variant, result.num_samples, result.split) == ("mine", "", 2, "val")
    assert result.data == os.path.realpath(store)
    assert result.weights == os.path.realpath(run / "export")
    assert result.settings == {}
    # The sets are distinguished by their ids and by what split the texts.
    sets = {result.sample_set}
    for ids, tokens in ((captions, "ptb"), ({"a": "x"}, "simple"), ({"a": "x", "b": "y"}, "simple")):
        other = save_captions(ids, {}, plan, run, tmp_path / "other", tokens)
        sets.add(load_result(tmp_path / "other" / other.name).sample_set)
    assert len(sets) == 3


def test_a_checkpoint_and_a_folder_of_its_own_are_named(store, tmp_path):
    run = tmp_path / "runs" / "mine"
    checkpoint = run / "checkpoints" / "step_00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
    (run / "checkpoints" / "best").symlink_to("step_00000003")
    save_captions({"a": "x"}, {}, CaptionPlan(store), run / "checkpoints" / "best", run / "results")
    (path,) = (run / "results").glob("*.json")
    result = load_result(path)
    assert (result.model, result.variant) == ("mine@step_00000003", "step_00000003")
    assert result.weights == os.path.realpath(checkpoint)
    (tmp_path / "alone").mkdir()
    path = save_captions({"a": "x"}, {}, CaptionPlan(store), tmp_path / "alone", tmp_path / "r")
    result = load_result(tmp_path / "r" / path.name)
    assert (result.model, result.variant, result.weights) == ("alone", "", os.path.realpath(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"decoding": Decoding(batch_size=1)}, {}),
        ({"decoding": Decoding(beams=2, top_p=0.5)}, {}),
        ({"decoding": Decoding("beam")}, {"decoding.strategy": "beam"}),
        ({"decoding": Decoding("beam", beams=2, top_p=0.5)}, {"decoding.strategy": "beam", "decoding.beams": 2}),
        (
            {"decoding": Decoding("nucleus", beams=2, top_p=0.5), "seed": 3},
            {"decoding.strategy": "nucleus", "decoding.top_p": 0.5, "seed": 3},
        ),
        ({"decoding": Decoding("nucleus")}, {"decoding.strategy": "nucleus"}),
        ({"seed": 3}, {}),
        ({"decoding": Decoding(max_tokens=7)}, {"decoding.max_tokens": 7}),
        ({"tokenizer": "ptb"}, {"tokenizer": "ptb"}),
        ({"tokenizer": "simple"}, {}),
        ({"shift": 0.5}, {"shift": 0.5}),
        ({"clip": "ViT-B-32", "clip_pretrained": "openai"}, {"clip": "ViT-B-32 openai"}),
        ({"clip": "ViT-B-32"}, {"clip": "ViT-B-32"}),
    ],
)
def test_settings_are_what_changes_the_numbers(store, tmp_path, monkeypatch, changes, settings):
    monkeypatch.setattr(room, "automatic_tokenizer", lambda: "simple")
    path = save_captions({"a": "x"}, {}, CaptionPlan(store, **changes), tmp_path / "mine", tmp_path)
    assert load_result(tmp_path / path.name).settings == settings


def test_models_of_folders_are_named_by_them_and_ids_by_their_number_and_hash(store, tmp_path):
    (tmp_path / "deep" / "clip").mkdir(parents=True)
    hashes = set()
    for ids in (["a", "b"], ["b", "a"], ["a", "c"], ["a"]):
        plan = CaptionPlan(store, clip=str(tmp_path / "deep" / "clip"), clip_pretrained="x", ids=ids)
        path = save_captions({"a": "x"}, {}, plan, tmp_path / "mine", tmp_path)
        settings = load_result(tmp_path / path.name).settings
        assert settings["clip"] == "clip"
        number, digest = settings["ids"].split()
        assert (int(number), len(digest)) == (len(ids), 8)
        hashes.add(digest)
    assert len(hashes) == 3
