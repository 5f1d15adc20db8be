"""SIMAT in its own layout, on features chosen by hand."""

import csv
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from gapless.config import EvalPlan
from gapless.errors import ConfigError, DataError
from gapless.eval.arithmetic import _through_heads
from gapless.eval.results import file_hash
from gapless.eval.run import evaluate
from gapless.geometry import Transform
from tests.eval.tables import Tables

WORDS = ("dog", "cat", "grass", "sand")
REGIONS = (40, 10, 30, 20)
"""Of dataset_id 0 to 3, so that neither their order nor that of the files' names is that of the pictures."""
FEATURES = ((1, 0, 1, 0), (0, 1, 1, 0), (1, 0, 0, 1), (0, 1, 0, 1))
EDITS = (
    # region, value, target, picture that is right, norm2, whether it is a test
    (40, "dog", "cat", 1, 1, False),
    (40, "grass", "sand", 2, 4, False),
    (20, "cat", "dog", 2, 9, False),
    (10, "cat", "dog", 3, 1, True),
    (30, "sand", "grass", 0, 16, True),
)


@pytest.fixture
def simat(tmp_path):
    tables = Tables(4)
    tables.write(dict(zip(WORDS, torch.eye(4).tolist(), strict=True)))
    base = tmp_path / "simat_db"
    for region, feature in sorted(zip(REGIONS, FEATURES, strict=True), reverse=True):
        tables.picture(base / "images" / "images" / f"{region}.png", feature)
    with (base / "triplets.csv").open("w", newline="") as file:
        rows = sorted(zip(REGIONS, range(4), strict=True))
        csv.writer(file).writerows([("region_id", "dataset_id"), *rows])
    with (base / "transfos.csv").open("w", newline="") as file:
        names = ("region_id", "value", "target", "target_ids", "norm2", "is_test")
        csv.writer(file).writerows([names, *EDITS])
    torch.save(torch.eye(4), base / "oscar_similarity_matrix.pt")
    return tables


def plan(tmp_path, **changes):
    return EvalPlan(datasets=["simat"], root=str(tmp_path), workers=0, **changes)


def test_images_changed_by_words_find_the_image_so_changed(simat, tmp_path):
    (result,) = evaluate(simat.loaded(), plan(tmp_path))
    assert result.metrics == {"simat_score@1": pytest.approx(100), "num_edits": 3}
    assert (result.dataset, result.task, result.num_samples) == ("simat_dev", "embedding_arithmetic", 4)
    assert (result.split, result.settings) == ("dev", {})
    assert result.data == str(tmp_path.resolve())
    assert result.pretrained == "by hand"


def test_the_folder_may_be_that_of_the_tables(simat, tmp_path):
    (result,) = evaluate(simat.loaded(), replace(plan(tmp_path), root=str(tmp_path / "simat_db")))
    assert result.metrics["simat_score@1"] == pytest.approx(100)


def test_the_test_domain_has_other_edits(simat, tmp_path):
    (result,) = evaluate(simat.loaded(), plan(tmp_path, split="test", lambdas=[-1.0, 1.0]))
    # Weights are norm2^-0.5: 1 for the first edit, which finds picture 0, and backwards picture 3; 1/4 for the other.
    assert result.metrics == pytest.approx({"simat_score@-1": 80, "simat_score@1": 20, "num_edits": 2})
    assert (result.dataset, result.split, result.settings) == ("simat_test", "test", {"lambdas": [-1.0, 1.0]})
    with pytest.raises(ConfigError, match="simat has the splits dev and test, not 'val'"):
        evaluate(simat.loaded(), plan(tmp_path, split="val"))


def heads(path, image, text):
    rows = {
        "image.weight": image.clone(),
        "image.bias": torch.zeros(4),
        "text.weight": text.clone(),
        "text.bias": torch.zeros(4),
    }
    save_file(rows, path)
    return path


def test_heads_are_for_their_own_side(simat, tmp_path):
    swapped = torch.eye(4)[[1, 0, 2, 3]]  # dog for cat
    for name, image, text, score in (
        # An edit of an animal then leads away from the right picture: only that of the ground is right.
        ("text", torch.eye(4), swapped, 100 * 0.5 / (1 + 0.5 + 1 / 3)),
        ("both", swapped, swapped, 100),
    ):
        path = heads(tmp_path / f"{name}.safetensors", image, text)
        (result,) = evaluate(simat.loaded(), plan(tmp_path, heads=path))
        assert result.metrics["simat_score@1"] == pytest.approx(score)
        assert result.settings == {"heads": f"{name} {file_hash(path)}"}


def test_words_are_moved_as_texts(simat, tmp_path):
    swapped = torch.eye(4)[[1, 0, 2, 3]].contiguous()
    Transform("swap", text_matrix=swapped).save(tmp_path / "t.safetensors")
    (result,) = evaluate(simat.loaded(), plan(tmp_path, transform=tmp_path / "t.safetensors"))
    assert result.metrics["simat_score@1"] == pytest.approx(100 * 0.5 / (1 + 0.5 + 1 / 3))


def test_all_pictures_are_needed(simat, tmp_path):
    place = tmp_path / "simat_db" / "images" / "images" / "30.png"
    place.write_bytes(b"no picture")
    with pytest.raises(DataError, match="simat: 30 cannot be used"):
        evaluate(simat.loaded(), plan(tmp_path, max_bad_fraction=1.0))
    place.unlink()
    with pytest.raises(DataError, match=r"looked for .*30\.png, it is not there \(1 of 6 missing\)"):
        evaluate(simat.loaded(), plan(tmp_path))


def test_heads_are_linear_maps_of_the_models_dimension(tmp_path):
    weights = {f"{side}.weight": torch.randn(16, 16) for side in ("image", "text")}
    weights |= {f"{side}.bias": torch.randn(16) for side in ("image", "text")}
    save_file(weights, tmp_path / "heads.safetensors")
    x = torch.randn(3, 16)
    images, words = _through_heads(tmp_path / "heads.safetensors", x, {"dog": x[0]})
    torch.testing.assert_close(images, x @ weights["image.weight"].T + weights["image.bias"])
    torch.testing.assert_close(words["dog"], weights["text.weight"] @ x[0] + weights["text.bias"])
    with pytest.raises(DataError, match="takes 16 dimensions, the model has 8"):
        _through_heads(tmp_path / "heads.safetensors", torch.randn(3, 8), {})
    for name, change in (
        ("of texts", {"text.weight": torch.randn(16, 5)}),
        ("without a bias", {"text.bias": None}),
    ):
        save_file({n: t for n, t in (weights | change).items() if t is not None}, tmp_path / name)
        with pytest.raises(DataError, match="heads: "):
            _through_heads(tmp_path / name, x, {})
