"""From a store to batches of captions and prepared embeddings."""

import logging

import pytest
import torch
import torch.nn.functional as F

from gapless.data import Place
from gapless.data.loader import epoch_order
from gapless.decode import FeatureStore, save_features
from gapless.decode.captions.batches import CaptionBatch, CaptionData, CaptionedEmbeddings, load_captioned, padded
from gapless.decode.captions.captioner import IGNORED
from gapless.errors import DataError

D = 3


def said(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor([k % 3 for k in range(n)])
    return CaptionedEmbeddings("audio", torch.randn(3, D, generator=generator), rows, [f"text {k}" for k in range(n)])


def data(place=None, seed=7, batch_size=2, n=5):
    asked = []

    def prepare(embedding, modality, noise):
        asked.append((embedding, modality, noise))
        return embedding + 10 * noise

    tokens = [torch.tensor([k, k + 1]) for k in range(n)]
    return CaptionData(said(n), tokens, prepare, batch_size, seed, place or Place()), asked


def test_a_batch_is_of_the_seeds_order_with_each_captions_own_embedding():
    made, asked = data()
    assert (made.num_samples, made.steps_per_epoch) == (5, 3)
    order = [k for epoch in (0, 1) for k in epoch_order([0] * 5, 7, epoch, 1)]
    batches = list(made.batches(1, 6))
    expected = [order[2:4], order[4:5], order[5:7], order[7:9], order[9:10]]
    assert [batch.tokens[:, 0].tolist() for batch in batches] == expected
    for chosen, (embedding, modality, noise), batch in zip(expected, asked, batches, strict=True):
        assert modality == "audio"
        assert torch.equal(embedding, made.captioned.embedding[[k % 3 for k in chosen]])
        assert noise.shape == (len(chosen), D)
        assert torch.equal(batch.prepared, embedding + 10 * noise)
        assert batch.rows == len(chosen)
    assert (batches[0].bad, batches[0].converted, batches[0].first_cut) == ([], {}, "")


def test_noise_is_of_seed_and_step_and_not_of_the_process():
    def noises(place=None, seed=7):
        made, asked = data(place, seed, batch_size=5)
        list(made.batches(0, 3))
        return [noise for _, _, noise in asked]

    whole = noises()
    assert all(torch.equal(a, b) for a, b in zip(whole, noises(), strict=True))
    assert not torch.equal(whole[0], whole[1])  # epochs of one step: the same captions, other noise
    assert not torch.equal(whole[0], noises(seed=8)[0])
    parts = [noises(Place(rank, 2)) for rank in (0, 1)]
    assert [len(part[0]) for part in parts] == [2, 3]
    assert all(torch.equal(torch.cat(both), one) for *both, one in zip(*parts, whole, strict=True))
    assert torch.cat(whole).std().item() == pytest.approx(1.0, abs=0.4)


def test_tokens_are_filled_up_with_what_no_loss_is_taken_at():
    filled = padded([torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert filled.tolist() == [[1, 2, 3], [4, IGNORED, IGNORED]]
    assert padded([]).shape == (0, 1)
    assert padded([]).dtype == torch.long
    assert CaptionBatch(torch.zeros(0, D), padded([])).rows == 0


def test_data_are_known_by_what_they_hold():
    marks = {said().fingerprint()}
    assert said().fingerprint() in marks
    one = said()
    for other in (
        said(seed=1),
        said(n=4),
        CaptionedEmbeddings("image", one.embedding, one.row_of_caption, one.captions),
        CaptionedEmbeddings("audio", one.embedding, one.row_of_caption.flip(0), one.captions),
        CaptionedEmbeddings("audio", one.embedding, one.row_of_caption, one.captions[::-1]),
    ):
        marks.add(other.fingerprint())
    assert len(marks) == 6


@pytest.fixture
def store(tmp_path):
    rows = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 4], [1, 1, 0]])
    save_features(tmp_path, "image", "train", ["a", "b", "c", "silent"], rows)
    save_features(tmp_path, "image", "val", ["v"], rows[1:2])
    save_features(tmp_path, "text", "train", ["b", "a", "a", "a"], rows, ["of b", "of a", " ", "of a too"])
    save_features(tmp_path, "text", "val", ["v"], rows[:1], ["of v"])
    save_features(tmp_path, "text", "test", ["c"], rows[:1], ["of c"])
    return FeatureStore(tmp_path)


def test_texts_are_said_of_their_own_rows(store, caplog):
    found = load_captioned(store, "text", "train")
    assert (found.modality, found.captions) == ("text", ["of b", "of a", "of a too"])
    assert found.row_of_caption.tolist() == [0, 1, 3]
    assert found.embedding.shape == (4, 3)
    assert caplog.messages == ["text_train: 1 rows have no caption and are left out"]
    assert load_captioned(store, "text", "val").captions == ["of v"]


def test_other_modalities_take_the_captions_of_their_ids_and_split(store, caplog):
    caplog.set_level(logging.WARNING)
    found = load_captioned(store, "image", "train")
    assert (found.modality, found.captions) == ("image", ["of a", "of a too", "of b"])
    assert found.row_of_caption.tolist() == [0, 0, 1]
    torch.testing.assert_close(found.embedding[1], torch.tensor([0.0, 1, 0]))
    assert caplog.messages == ["image_train: 2 rows have no caption and are left out"]
    caplog.clear()
    assert load_captioned(store, "image", "val").captions == ["of v"]
    assert caplog.messages == []


def test_other_processes_say_nothing(store, caplog, monkeypatch):
    from gapless.decode.captions import batches

    monkeypatch.setattr(batches, "PartialState", lambda: type("Other", (), {"is_main_process": False}))
    load_captioned(store, "image", "train")
    assert caplog.messages == []


def test_without_captions_there_is_nothing_to_learn(tmp_path):
    save_features(tmp_path, "image", "train", ["x", "y"], torch.eye(2))
    save_features(tmp_path, "text", "train", ["z"], torch.eye(2)[:1], ["of z"])
    with pytest.raises(DataError) as error:
        load_captioned(FeatureStore(tmp_path), "image", "train")
    assert str(error.value) == f"{tmp_path}: no id of image_train has a caption, 'x' for one"


@pytest.mark.parametrize(("fraction", "number"), [(0.01, 1), (0.3, 3), (0.55, 6), (1.0, 10)])
def test_a_share_is_of_the_ids_that_have_a_caption(tmp_path, fraction, number):
    ids = [f"i{k // 2}" for k in range(20)] + ["silent"]
    texts = [f"{name} {k}" for k, name in enumerate(ids[:-1])] + [""]
    save_features(tmp_path, "text", "train", ids, F.normalize(torch.rand(21, D) + 1, dim=1), texts)
    found = load_captioned(FeatureStore(tmp_path), "text", "train", fraction, 3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3)) if fraction < 1 else torch.arange(10)
    kept = {f"i{k}" for k in order[:number].tolist()}
    assert {text.split()[0] for text in found.captions} == kept
    assert len(found.captions) == 2 * number
    assert [texts[k] for k in found.row_of_caption.tolist()] == found.captions
    assert len(found.embedding) == 21
