"""Retrieval, gap and the other tasks on pairs, from the name of a data set to results, on features chosen by hand."""

import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gapless.config import DataConfig, EvalPlan
from gapless.errors import ConfigError, DataError
from gapless.eval.metrics.grouping import intra_modal_retrieval, mixed_recall
from gapless.eval.run import evaluate
from gapless.geometry import Transform, whole_gap
from tests.eval.tables import Tables, shard

CAPTIONS = (("one", "eins", "un"), ("two",), ("three", "drei"), ("four",), ("five", "cinq"), ("six",), ("seven",))
OWNER = [0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6]
FIRSTS = [0, 3, 4, 6, 7, 9, 10]


@pytest.fixture
def pairs(tmp_path):
    """Seven pictures with eleven captions, each near the picture beside it as often as near its own."""
    generator = torch.Generator().manual_seed(11)
    tables = Tables(6)
    images = torch.randn(7, 6, generator=generator) + torch.tensor([0, 0, 0, 0, 0, 1.0])
    texts = images[OWNER] + 1.5 * torch.randn(11, 6, generator=generator) - torch.tensor([0, 0, 0, 0, 0, 2.0])
    flat = [caption for captions in CAPTIONS for caption in captions]
    tables.write(dict(zip(flat, texts.tolist(), strict=True)))
    for k, (image, captions) in enumerate(zip(images.tolist(), CAPTIONS, strict=True)):
        tables.picture(tmp_path / "pairs" / f"{k}.png", image)
        (tmp_path / "pairs" / f"{k}.txt").write_text("\n".join(captions))
    return tables


def plan(tmp_path, *tasks, **changes):
    data = DataConfig(source="folder", path=str(tmp_path / "pairs"), val_path=str(tmp_path / "pairs"))
    return EvalPlan(**{"datasets": ["pairs"], "tasks": list(tasks), "data": data, "workers": 0} | changes)


def clouds(tables):
    return tables.rows(*range(7)), tables.text(*(caption for captions in CAPTIONS for caption in captions))


def ranks_by_sorting(images, texts, owner):
    """Rank of each text's image, and of each image's best text."""
    scores = texts @ images.T
    by_text = [row.argsort(descending=True).tolist().index(k) for row, k in zip(scores, owner, strict=True)]
    orders = [column.argsort(descending=True).tolist() for column in scores.T]
    by_image = [min(order.index(j) for j, k in enumerate(owner) if k == i) for i, order in enumerate(orders)]
    return torch.tensor(by_text), torch.tensor(by_image)


def test_retrieval_is_of_all_captions_in_both_directions(pairs, tmp_path):
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "retrieval"))
    by_text, by_image = ranks_by_sorting(*clouds(pairs), OWNER)
    expected = {"num_images": 7, "num_texts": 11}
    for name, ranks in (("image", by_text), ("text", by_image)):
        expected |= {f"{name}_retrieval_recall@{k}": float((ranks < k).double().mean()) for k in (1, 5, 10)}
        expected[f"{name}_retrieval_mean_rank"] = float(ranks.double().mean()) + 1
        expected[f"{name}_retrieval_median_rank"] = float(ranks.median()) + 1
    assert expected["image_retrieval_recall@1"] != expected["text_retrieval_recall@1"]
    assert result.metrics == pytest.approx(expected)
    assert result.samples["image_retrieval_recall@1"].tolist() == (by_text < 1).tolist()
    assert result.samples["text_retrieval_recall@1"].tolist() == (by_image < 1).tolist()
    assert (result.dataset, result.task, result.split) == ("folder", "zeroshot_retrieval", "val")
    assert (result.num_samples, result.num_bad, result.settings) == (7, 0, {})
    assert result.data == ", ".join([os.path.realpath(tmp_path / "pairs")] * 2)


def test_retrieval_of_first_captions_is_a_task_of_its_own(pairs, tmp_path):
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "retrieval", captions="first"))
    images, texts = clouds(pairs)
    by_text, by_image = ranks_by_sorting(images, texts[FIRSTS], range(7))
    assert result.task == "zeroshot_retrieval_first_caption"
    assert result.metrics["num_texts"] == 7
    assert result.metrics["image_retrieval_mean_rank"] == pytest.approx(float(by_text.double().mean()) + 1)
    assert result.metrics["text_retrieval_mean_rank"] == pytest.approx(float(by_image.double().mean()) + 1)


def test_folds_are_consecutive_parts_of_the_images_with_their_captions(pairs, tmp_path):
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "retrieval", folds=2))
    images, texts = clouds(pairs)
    first = ranks_by_sorting(images[:3], texts[:6], OWNER[:6])
    second = ranks_by_sorting(images[3:], texts[6:], [k - 3 for k in OWNER[6:]])
    for name, parts in zip(("image", "text"), zip(first, second, strict=True), strict=True):
        ranks = torch.cat(parts)
        assert result.metrics[f"{name}_retrieval_mean_rank"] == pytest.approx(float(ranks.double().mean()) + 1)
        assert result.samples[f"{name}_retrieval_recall@1"].tolist() == (ranks < 1).tolist()
    assert result.settings == {"folds": 2}
    evaluate(pairs.loaded(), plan(tmp_path, "retrieval", folds=7))
    with pytest.raises(ConfigError, match="folds: 8 does not work, it must be between 1 and the 7 images"):
        evaluate(pairs.loaded(), plan(tmp_path, "retrieval", folds=8))


def test_the_gap_is_between_images_and_their_first_captions(pairs, tmp_path):
    images, texts = clouds(pairs)
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "gap"))
    assert (result.task, result.num_samples) == ("gap", 7)
    assert result.metrics == pytest.approx(whole_gap(images, texts[FIRSTS]), rel=1e-5)
    assert result.metrics["uniformity_image"] != pytest.approx(result.metrics["uniformity_text"], abs=0.01)
    data = replace(plan(tmp_path).data, val_samples=5)
    assert [r.num_samples for r in evaluate(pairs.loaded(), plan(tmp_path, "gap", data=data))] == [5]
    data = replace(data, val_samples=4)  # too few for a gap
    assert evaluate(pairs.loaded(), plan(tmp_path, "gap", data=data)) == []


def test_a_transform_moves_images_and_captions_each_by_its_own_map(pairs, tmp_path):
    generator = torch.Generator().manual_seed(3)
    matrices, shifts = torch.randn(2, 6, 6, generator=generator), torch.randn(2, 6, generator=generator)
    Transform("some", matrices[0], shifts[0], matrices[1], shifts[1]).save(tmp_path / "t.safetensors")
    found = evaluate(pairs.loaded(), plan(tmp_path, "gap", "mixed", transform=tmp_path / "t.safetensors"))
    images, texts = (
        F.normalize(rows @ matrix + shift, dim=1)
        for rows, matrix, shift in zip(clouds(pairs), matrices, shifts, strict=True)
    )
    assert found[0].metrics == pytest.approx(whole_gap(images, texts[FIRSTS]), rel=1e-4)
    assert found[1].metrics == pytest.approx(mixed_recall(images, texts[FIRSTS]))


def test_texts_look_for_texts_of_their_image(pairs, tmp_path):
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "intra_modal"))
    expected = intra_modal_retrieval(clouds(pairs)[1], torch.tensor(OWNER))
    assert 0 < expected["map"] < 1
    assert result.metrics == pytest.approx({f"text_{name}": value for name, value in expected.items()})
    assert (result.task, result.settings) == ("intra_modal_retrieval", {})
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "intra_modal", captions="first"))
    assert result.settings == {"captions": "first"}


def test_texts_look_for_images_among_images_and_texts(pairs, tmp_path):
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "mixed"))
    images, texts = clouds(pairs)
    expected = mixed_recall(images, texts[FIRSTS])
    assert expected != mixed_recall(texts[FIRSTS], images)
    assert (result.task, result.metrics) == ("mixed_modality_retrieval", pytest.approx(expected))


def test_images_that_are_left_out_take_their_captions_with_them(pairs, tmp_path):
    whole = evaluate(pairs.loaded(), plan(tmp_path, "retrieval"))[0].sample_set
    (tmp_path / "pairs" / "1a.png").write_bytes(b"no picture")
    (tmp_path / "pairs" / "1a.txt").write_text("two\nun")
    (tmp_path / "pairs" / "3a.png").write_bytes(b"of no interest without a caption")
    (tmp_path / "pairs" / "3a.txt").write_text(" \n")
    (result,) = evaluate(pairs.loaded(), plan(tmp_path, "retrieval", max_bad_fraction=0.2))
    by_text, by_image = ranks_by_sorting(*clouds(pairs), OWNER)
    assert (result.num_samples, result.num_bad) == (7, 2)
    assert result.samples["image_retrieval_recall@1"].tolist() == (by_text < 1).tolist()
    assert result.metrics["text_retrieval_mean_rank"] == pytest.approx(float(by_image.double().mean()) + 1)
    assert result.sample_set == whole
    (tmp_path / "pairs" / "6.txt").write_text("six")
    assert evaluate(pairs.loaded(), plan(tmp_path, "retrieval", max_bad_fraction=0.2))[0].sample_set != whole
    with pytest.raises(DataError, match=r"folder: 1 of 8 images cannot be used, .*=0.1;"):
        evaluate(pairs.loaded(), plan(tmp_path, "retrieval", max_bad_fraction=0.1))
    for path in (tmp_path / "pairs").glob("*.txt"):
        path.write_text("")
    with pytest.raises(DataError, match="folder: no image has a caption"):
        evaluate(pairs.loaded(), plan(tmp_path, "retrieval"))


def test_shards_of_pairs_are_retrieval_by_their_split(pairs, tmp_path):
    (tmp_path / "wds").mkdir()
    (tmp_path / "wds" / "dataset_type.txt").write_text("retrieval\n")
    for split, chosen in (("test", range(7)), ("val", range(3))):
        members = {f"{k}.png": (tmp_path / "pairs" / f"{k}.png").read_bytes() for k in chosen}
        members |= {f"{k}.txt": "\n".join(CAPTIONS[k]).encode() for k in chosen}
        shard(tmp_path / "wds" / split, dict(sorted(members.items())))
    shards = plan(tmp_path, "retrieval", datasets=["wds/some"], root=str(tmp_path / "wds"))
    (result,) = evaluate(pairs.loaded(), shards)
    by_text, _ = ranks_by_sorting(*clouds(pairs), OWNER)
    assert result.samples["image_retrieval_recall@1"].tolist() == (by_text < 1).tolist()
    assert (result.dataset, result.split, result.settings) == ("wds/some", "test", {})
    assert result.data == os.path.realpath(tmp_path / "wds")
    (result,) = evaluate(pairs.loaded(), replace(shards, split="val"))
    assert (result.num_samples, result.split, result.settings) == (3, "val", {"split": "val"})
