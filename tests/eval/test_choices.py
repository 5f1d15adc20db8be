"""Which caption belongs to which image, on features chosen by hand."""

import json

import pytest
import torch

from gapless.config import EvalPlan
from gapless.eval.run import evaluate
from tests.eval.tables import Tables


def scored(tables, tmp_path, name, **changes):
    plan = EvalPlan(datasets=[name], root=str(tmp_path), tasks=["zero_shot"], workers=0, **changes)
    (result,) = evaluate(tables.loaded(), plan)
    return result


def test_sugar_crepes_images_choose_between_two_captions(tmp_path):
    tables = Tables(3)
    tables.write({"right": (1, 0, 0), "wrong": (0, 1, 0)})
    rows = {}
    for k, feature in enumerate([(1, 0.5, 0), (0.5, 1, 0), (0.2, 1, 0), (2, 1, 3)]):
        tables.picture(tmp_path / "val2017" / f"{k}.jpg", feature)
        rows[str(7 - k)] = {"filename": f"{k}.jpg", "caption": "right", "negative_caption": "wrong"}
    (tmp_path / "swap_obj.json").write_text(json.dumps(rows))
    result = scored(tables, tmp_path, "sugar_crepe/swap_obj")
    assert result.metrics == {"image_acc": 1.0, "text_acc": 0.5, "acc": 0.5}
    assert {n: t.tolist() for n, t in result.samples.items()} == {
        "image_acc": [1, 1, 1, 1],
        "text_acc": [1, 0, 0, 1],
        "acc": [1, 0, 0, 1],
    }
    assert (result.dataset, result.task) == ("sugar_crepe/swap_obj", "image_caption_selection")
    assert (result.num_samples, result.settings, result.split) == (4, {}, "")


@pytest.mark.parametrize("broken", [False, True])
def test_winogrounds_captions_choose_between_two_images_and_images_between_two_captions(tmp_path, broken):
    tables = Tables(3)
    # Of the first two both are right; of the third the captions find their images, and one image the wrong caption.
    images = torch.tensor([[[1, 0, 0], [0, 1, 0.0]], [[1, 0, 1], [0, 1, 1.0]], [[1, 0, 0], [0.8, 0.6, 0]]])
    texts = torch.tensor([[[1, 0, 0], [0, 1, 0.0]], [[1, 0, 1], [0, 1, 1.0]], [[1, 0.1, 0], [0, 1, 0]]])
    rows = []
    for k in range(3):
        for i in range(2):
            tables.picture(tmp_path / "images" / f"{9 - 3 * k - i}.png", images[k, i].tolist())
            tables.write({f"{k} {i}": texts[k, i].tolist()})
        rows.append({f"image_{i}": f"{9 - 3 * k - i}" for i in range(2)} | {f"caption_{i}": f"{k} {i}" for i in (0, 1)})
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if broken:  # an image of the first instance
        (tmp_path / "images" / "9.png").write_bytes(b"no picture")
    result = scored(tables, tmp_path, "winoground", max_bad_fraction=0.2)
    first = [] if broken else [1]
    assert {n: t.tolist() for n, t in result.samples.items()} == {
        "image_acc": [*first, 1, 1],
        "text_acc": [*first, 1, 0],
        "acc": [*first, 1, 0],
    }
    assert result.metrics == pytest.approx(
        {"image_acc": 1, "text_acc": 0.5 if broken else 2 / 3, "acc": result.metrics["text_acc"]}
    )
    assert (result.dataset, result.num_samples, result.num_bad) == ("winoground", 6 - broken, broken)
