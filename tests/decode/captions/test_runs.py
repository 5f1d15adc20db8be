"""Runs of gapless caption: what they open, how they resume, what processes change, what they say."""

import json
import math

import pytest
import safetensors
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file

from gapless.config import ModelConfig
from gapless.data import Place
from gapless.decode import FeatureStore, load_captioner, save_features, store
from gapless.decode.captions.batches import CaptionData, CaptionedEmbeddings, load_captioned
from gapless.decode.captions.training import CaptionEvaluation
from gapless.eval.features import embed_texts
from gapless.models import build_model, load_model, save_export
from tests.decode.stores import D, captions, tree, write_store
from tests.runs import TINY, metrics, run, run_killed, run_together, terminated, write_config


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("space"))


def config(tmp_path, space, name="tiny", **changes):
    path = write_config(tree(space, tmp_path, **changes) | {"name": name}, tmp_path / f"{name}.yaml")
    return path, tmp_path / name


def test_text_only_training_opens_neither_images_nor_their_embeddings(tmp_path, space, monkeypatch):
    copy = tmp_path / "space"
    copy.mkdir()
    for path in space.glob("*"):
        broken = path.name.startswith("image")
        (copy / path.name).write_bytes(b"not to be read" if broken else path.read_bytes())
    opened = []
    original = safetensors.safe_open
    monkeypatch.setattr(store, "safe_open", lambda path, kind: opened.append(path.name) or original(path, kind))
    monkeypatch.setattr("gapless.data.images.decode_image", None)  # calling it fails
    path, folder = config(tmp_path, copy)
    run("caption", "train", "--config", str(path))
    assert opened
    assert all(name.startswith(("text_", "means")) for name in opened)
    # Captioning does open them, which shows that the trap was armed.
    said = run("caption", "eval", str(folder), f"--features={copy}", code=3)
    assert "image_test_00000.safetensors is not in the format" in said


def test_killed_or_stopped_a_run_ends_with_the_same_lines(tmp_path, space):
    path, whole = config(tmp_path, space, "whole", optim__ema_decay=0.9)
    run("caption", "train", "--config", str(path))
    path, killed = config(tmp_path, space, "killed", optim__ema_decay=0.9)
    run_killed(killed / "metrics.jsonl", 6, "caption", "train", "--config", str(path))
    with terminated(killed / "metrics.jsonl", 9):
        assert "the same command resumes" in run("caption", "train", "--config", str(path), code=75)
    run("caption", "train", "--config", str(path))
    assert metrics(killed) == metrics(whole)
    one, other = (load_file(folder / "export" / "captioner.safetensors") for folder in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "nothing left to do" in run("caption", "train", "--config", str(path))
    said = run("caption", "train", "--config", str(path), "--prepare.noise=0.3", code=2)
    assert "prepare.noise was 0.05, is 0.3" in said


def test_checkpoints_and_exports_hold_the_captioner_that_was_measured(tmp_path, space):
    path, folder = config(tmp_path, space, "averaged", optim__ema_decay=0.9, optim__lr=0.01)
    run("caption", "train", "--config", str(path))
    logged = [line["val/loss"] for line in metrics(folder) if "val/loss" in line]
    assert _loss(folder / "checkpoints" / "latest", space) == pytest.approx(logged[-1], abs=1e-5)
    assert _loss(folder / "export", space) == pytest.approx(logged[-1], abs=1e-5)
    assert _loss(folder / "checkpoints" / "best", space) in [pytest.approx(value, abs=1e-5) for value in logged[1:]]
    files = ("raw.safetensors", "captioner.safetensors")
    raw, model = (load_file(folder / "checkpoints" / "latest" / name) for name in files)
    assert not torch.equal(raw["decoder.transformer.wte.weight"], model["decoder.transformer.wte.weight"])


def _loss(place, space):
    captioner = load_captioner(place)
    said = load_captioned(FeatureStore(space), "text", "val")
    tokens, _ = captioner.tokenize(said.captions, 12)
    return CaptionEvaluation(said, tokens, captioner.preparation, 64, Accelerator()).run(captioner)["val/loss"]


def test_two_processes_train_as_one(tmp_path, space):
    still = {"n_layer": 1, "n_head": 2, "n_embd": 32, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    changes = {"decoder__architecture": still, "features__batch_size": 15}
    path, alone = config(tmp_path, space, "alone", train__micro_batch_size=4, **changes)
    run("caption", "train", "--config", str(path))
    path, together = config(tmp_path, space, "together", **changes)
    run_together(tmp_path, "caption", "train", "--config", str(path))
    for one, other in zip(metrics(alone), metrics(together), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_batches_depend_on_seed_and_step_alone():
    tokens = [torch.tensor([k]) for k in range(11)]
    said = CaptionedEmbeddings("text", torch.arange(11.0)[:, None], torch.arange(11), [""] * 11)

    def parts(world):
        data = [
            CaptionData(said, tokens, lambda e, _, noise: e + noise, 4, 7, Place(rank, world)) for rank in range(world)
        ]
        return [list(each.batches(2, 8)) for each in data]

    whole, shared = parts(1)[0], parts(3)
    assert data_lengths(whole) == [3, 4, 4, 3, 4, 4]  # steps 2 to 7 of epochs of 4, 4 and 3
    for k, batch in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[k].prepared for part in shared]), batch.prepared)
        assert torch.cat([part[k].tokens for part in shared]).tolist() == batch.tokens.tolist()
    assert sorted(t for batch in whole[1:4] for t in batch.tokens.flatten().tolist()) == list(range(11))


def data_lengths(batches):
    return [batch.rows for batch in batches]


@pytest.fixture(scope="module")
def learned(tmp_path_factory, space):
    """A captioner of texts that has learned them."""
    folder = tmp_path_factory.mktemp("runs")
    path, found = config(folder, space, "c3", train__epochs=40, eval__every_epochs=20, checkpoint__every_steps=None)
    run("caption", "train", "--config", str(path))
    return found


def test_a_decoder_of_texts_captions_images(learned, space, tmp_path):
    said = run("caption", "eval", str(learned), f"--features={space}", "--tokenizer=simple", f"--output={tmp_path}")
    assert "image_test, greedy, tokens: simple" in said
    (path,) = tmp_path.glob("*_captioning*.json")
    scores = json.loads(path.read_text())["metrics"]
    assert scores["num_captions"] == 24
    assert scores["rouge_l"] > 0.6  # of unseen images; a random caption of the five colours and six things has 0.4
    (path,) = (tmp_path / "captions").glob("*.json")
    assert {entry["image_id"] for entry in json.loads(path.read_text())} == {str(k) for k in range(4, 120, 5)}
    run("report", str(learned), f"--output={tmp_path / 'report.html'}")
    assert "val/perplexity" in (tmp_path / "report.html").read_text()
    lines = metrics(learned)
    assert lines[-1]["val/loss"] < 0.5 * lines[0]["val/loss"]
    assert lines[-1]["val/perplexity"] == pytest.approx(math.exp(lines[-1]["val/loss"]), rel=1e-4)


def test_without_texts_to_compare_with_there_are_captions_and_clip_score(learned, space, tmp_path):
    for name in ("image_test_00000.safetensors", "image_train_00000.safetensors", "means.safetensors"):
        (tmp_path / name).write_bytes((space / name).read_bytes())
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), tmp_path / "clip")
    arguments = ("--decoding.strategy=nucleus", "--ids=[4,9]", f"--output={tmp_path / 'r'}")
    said = run("caption", "eval", str(learned), f"--features={tmp_path}", f"--clip={tmp_path / 'clip'}", *arguments)
    assert "has no texts of image_test to compare with" in said
    (path,) = (tmp_path / "r" / "captions").glob("*.json")
    captions = {entry["image_id"]: entry["caption"] for entry in json.loads(path.read_text())}
    assert set(captions) == {"4", "9"}
    (path,) = (tmp_path / "r").glob("*_captioning_clip-clip_decoding.strategy-nucleus_ids-2-*.json")
    scores = json.loads(path.read_text())["metrics"]
    loaded, found = load_model(str(tmp_path / "clip")), FeatureStore(tmp_path).load("image", "test")
    texts = embed_texts(loaded.model.eval(), loaded.tokenizer, list(captions.values()))
    cosines = (found.embedding[[found.keys.index(k) for k in captions]] * texts).sum(dim=1)
    assert scores["clip_score"] == pytest.approx(2.5 * float(cosines.clamp(min=0).mean()), abs=1e-5)
    assert "rouge_l" not in scores


def test_collapse_is_what_makes_the_gap_harmless(learned, tmp_path):
    """The same decoder on images of a wider gap: with their mean subtracted it hardly matters."""
    found = {}
    for gap in (1.0, 3.0):
        space = write_store(tmp_path / f"space-{gap}", gap, means=False)
        model = load_captioner(learned)
        features = FeatureStore(space)
        model.preparation = model.preparation.with_mean("image", features.mean("image"))
        test, said = features.load("image", "test"), features.captions("test")
        texts = model.eval().generate(test.embedding, "image")
        found[gap] = sum(len(set(t.split()) & set(said[k][0].split())) for t, k in zip(texts, test.keys, strict=True))
    assert found[3.0] > 0.75 * found[1.0]


def test_pairs_and_shares_of_them(learned, space, tmp_path):
    changes = {"features__modality": "image", "features__fraction": 0.25, "prepare__noise": 0.0}
    path, folder = config(tmp_path, space, "few", decoder__start=str(learned), **changes)
    said = run("caption", "train", "--config", str(path))
    number = int(said.split(" samples an epoch")[0].split()[-1])
    assert 18 <= number <= 36  # a quarter of 72 ids, a third of which have two captions
    assert metrics(folder)[0]["val/loss"] < 0.5 * metrics(learned)[0]["val/loss"]  # it began where the other ended
    assert load_captioner(folder).tokenizer.get_vocab() == load_captioner(learned).tokenizer.get_vocab()


def test_bad_input_is_one_line(learned, space, tmp_path):
    assert "id 'zebra' has no embedding" in run(
        "caption", "eval", str(learned), f"--features={space}", "--ids=[zebra]", code=3
    )
    save_features(tmp_path / "wide", "image", "test", ["3"], torch.randn(1, D + 1))
    said = run("caption", "eval", str(learned), f"--features={tmp_path / 'wide'}", code=3)
    assert f"have {D + 1} dimensions, this captioner takes {D}" in said
    save_features(tmp_path / "sound", "audio", "test", ["3"], torch.randn(1, D))
    said = run("caption", "eval", str(learned), f"--features={tmp_path / 'sound'}", "--modality=audio", code=3)
    assert "has no mean of modality audio" in said
    path, _ = config(tmp_path, tmp_path / "sound", "none")
    assert "has no text_train (it has audio_test)" in run("caption", "train", "--config", str(path), code=3)
    rows = torch.randn(3, D)
    for split in ("train", "val"):
        save_features(tmp_path / "odd", "text", split, ["a", "b", "c"], rows, ["", " ", captions()[3] * 3])
    path, _ = config(tmp_path, tmp_path / "odd", "odd", train__epochs=1)
    said = run("caption", "train", "--config", str(path))
    assert "text_train: 2 rows have no caption and are left out" in said
    assert "1 of 1 captions are longer than 12 tokens and were cut" in said
    path, _ = config(tmp_path, space, "span", prepare__span_of=["audio", "text"])
    assert "prepare.span_of: ['audio', 'text'] need means" in run("caption", "train", "--config", str(path), code=2)
    path, _ = config(tmp_path, space, "share", features__fraction=0.0)
    assert "features.fraction: 0.0 does not work" in run("caption", "train", "--config", str(path), code=2)
    said = run("caption", "eval", str(learned), f"--features={space}", "--decoding.beams=0", code=2)
    assert "decoding.beams: " in said.splitlines()[-1]
    assert "did you mean caption train?" in run("caption", "trian", code=2)


def test_the_config_of_a_run_starts_it_again(learned):
    assert yaml.safe_load((learned / "config.yaml").read_text())["prepare"]["noise"] == 0.05
    assert "nothing left to do" in run("caption", "train", "--config", str(learned / "config.yaml"))
