import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gapless.config import DataConfig
from gapless.data import build_source
from gapless.decode import FeatureStore, save_features, save_means
from gapless.reproduce.connect_collapse_corrupt.experiment import reproduce_captioning
from gapless.reproduce.connect_collapse_corrupt.published import LOW_DATA, PUBLISHED, SPAN_NOISE
from tests.runs import run, tiny_config, write_config

MEMBERS = "gapless.reproduce.connect_collapse_corrupt.members"


def emoji_space(folder: Path, d=12):
    """Some emoji in a space of sums of random directions of their words, pictures apart from names."""
    generator = torch.Generator().manual_seed(0)
    words: dict[str, torch.Tensor] = {}
    for split, count in (("train", 60), ("val", 20), ("test", 20)):
        source = build_source(DataConfig(), split)
        chosen = list(range(0, len(source), len(source) // count))[:count]
        said = [source.captions(k)[0] for k in chosen]
        for text in said:
            for word in text.split():
                words.setdefault(word, torch.randn(d, generator=generator))
        text = F.normalize(torch.stack([sum(words[w] for w in each.split()) for each in said]), dim=1)
        image = F.normalize(text + torch.eye(d)[0], dim=1)
        ids = [source.key(k) for k in chosen]
        save_features(folder, "image", split, ids, image)
        save_features(folder, "text", split, ids, text, said)
        if split == "train":
            save_means(folder, {"image": image.mean(dim=0), "text": text.mean(dim=0)})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    run("train", "--config", str(write_config(tiny_config(folder, train__epochs=1), folder / "config.yaml")))
    return folder / "tiny"


def test_every_table_is_there_and_nothing_is_done_twice(model, tmp_path, monkeypatch):
    emoji_space(tmp_path / "features")
    tables = reproduce_captioning(tmp_path, model, quick=True)
    titles = [table.title for table in tables]
    assert [title.split(":")[0] for title in titles] == [
        "Table 2",
        "The paper's claims",
        "Table 7",
        *["Table 5"] * 4,
        "Table 6",
    ]
    assert [row[0].text for row in tables[0].rows] == ["C1, connect", "C2, collapse", "C2, corrupt", "C3, both"]
    found = json.loads((tmp_path / "captioning.json").read_text())
    assert list(found["variants"]) == ["c1", "c2-collapse", "c2-span", "c2-corrupt", "c3"]
    assert list(found["low_data"]) == ["0.01", "0.05", "0.25", "1.0"]
    assert len(found["gap_distance"]) == 8
    page = (tmp_path / "captions.html").read_text()
    assert page.count('src="data:image/webp') >= 10  # Figure 10 has pictures
    assert "93.3" in (tmp_path / "connect-collapse-corrupt-captions.md").read_text()
    assert (tmp_path / "captioning.png").stat().st_size > 3000
    monkeypatch.setattr(f"{MEMBERS}.write_captions", None)  # calling it fails
    again = reproduce_captioning(tmp_path, model, quick=True)
    assert [table.rows for table in again] == [table.rows for table in tables]


def test_what_the_coco_edition_needs_is_said():
    command = ("reproduce", "connect-collapse-corrupt", "--edition=coco")
    assert "--source: captioning's coco edition needs" in run(*command, code=2)
    assert "--data_path: captioning's coco edition needs COCO" in run(*command, "--source=x", code=2)
    assert "edition: cocoa is not one of" in run(*command[:2], "--edition=cocoa", code=2)


def test_the_papers_numbers_agree_with_each_other():
    assert PUBLISHED["c3"]["cider"] == 93.3
    assert SPAN_NOISE["c2-span"] == {
        "bleu_1": 41.2,
        "bleu_4": 6.2,
        "meteor": 14.9,
        "rouge_l": 33.6,
        "cider": 22.8,
        "spice": 8.3,
    }
    for metric in ("cider", "rouge_l"):  # its order, and more pairs are better
        assert PUBLISHED["c1"][metric] < PUBLISHED["c2-collapse"][metric] < PUBLISHED["c2-corrupt"][metric]
        assert PUBLISHED["c2-corrupt"][metric] < PUBLISHED["c3"][metric]
        alone = [LOW_DATA[share]["pairs"][metric] for share in sorted(LOW_DATA)]
        assert alone == sorted(alone)


def test_a_model_is_embedded_with_all_captions(model, tmp_path):
    run("caption", "embed", str(model), f"--output={tmp_path}", "--splits=[train,test]", "--data.workers=0")
    store, source = FeatureStore(tmp_path), build_source(DataConfig(), "test")
    images, said = store.load("image", "test"), store.captions("test")
    assert images.keys == [source.key(k) for k in range(len(source))]
    assert said[images.keys[5]] == list(source.captions(5))
    torch.testing.assert_close(store.means()["image"], store.load("image", "train").embedding.mean(dim=0))
    said = run("caption", "embed", str(model), f"--output={tmp_path / 'half'}", "--splits=[train,tset]", code=2)
    assert "tset is not one of train, val, test" in said
    assert not (tmp_path / "half" / "means.safetensors").exists()  # what stopped half-way does not look whole
    assert "train is needed" in run("caption", "embed", str(model), f"--output={tmp_path}", "--splits=[test]", code=2)
