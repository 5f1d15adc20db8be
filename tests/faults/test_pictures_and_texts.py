"""Pictures and captions as they come, through every verb that reads them."""

import io
import os

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.data.pictures import picture
from tests.runs import metrics, run, tiny_config

LONG = "the picture was taken on a table and later cut by hand to a small size " * 2


@pytest.fixture
def folder(tmp_path):
    """42 pairs with a pipe, a picture that is none, one whose decoder fails, a thin one, and long captions."""
    root = tmp_path / "pairs"
    root.mkdir()
    for i in range(40):
        (root / f"{i:02d}.png").write_bytes(picture(seed=i))
        (root / f"{i:02d}.txt").write_text(f"{LONG if i % 2 else 'a picture '}{i}\n")
    (root / "00.png").write_bytes(b"none")
    (root / "02.png").write_bytes(_damaged_tiff())
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(root / "03.png")
    Image.new("RGB", (30_000, 1)).save(root / "04.png")
    (root / "left.heic").write_bytes(b"x")
    os.mkfifo(root / "05.jpg")
    (root / "deep").symlink_to(tmp_path / "deep")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "caf\udce9.png").write_bytes(picture(seed=99))
    return root


def _damaged_tiff() -> bytes:
    """A TIFF with a tag of another type, for which Pillow raises TypeError."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), "red").save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    data[72] = 2
    return bytes(data)


def test_every_verb_reads_what_can_be_read_and_names_the_rest(folder, tmp_path):
    data = {"data__source": "folder", "data__path": str(folder), "data__batch_size": 8, "data__max_bad_fraction": 0.5}
    tree = tiny_config(tmp_path / "runs", train__epochs=1, **data)
    del tree["data"]["train_samples"], tree["data"]["val_samples"]
    tree["data"]["val_path"] = str(folder)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    printed = " ".join(run("doctor", "--config", str(path)).split())
    assert "captions are longer than the context and are cut" in printed
    assert "left out: 1 .heic" in printed
    printed = run("train", "--config", str(path))
    assert "captions that are longer than the model's context are cut, first: the picture was" in printed
    assert (
        printed.count("20 of 38 captions are longer than the model's context and are cut, first: the picture was") == 1
    )
    counts = metrics(tmp_path / "runs" / "tiny")[-2]
    assert counts["data/converted_bit_depth"] == 1
    assert counts["data/converted_long_caption"] >= 18
    assert {name: value for name, value in counts.items() if "skipped" in name} == {
        "data/skipped_not_an_image": 1,
        "data/skipped_truncated": 1,
        "data/skipped_missing_file": 1,
        "data/skipped_no_caption": 1,
    }
    options = ("--max_bad_fraction=0.5", "--workers=0")
    printed = run("prepare", "folder", f"--path={folder}", "--all", f"--output={tmp_path / 'out'}", *options)
    assert "38 pairs in 1 shards" in printed
    model = str(tmp_path / "runs" / "tiny")
    source = ("--data.source=folder", f"--data.path={folder}", f"--data.val_path={folder}")
    printed = run("eval", model, "--datasets=[pairs]", "--split=val", *source, "--max_bad_fraction=0.01", code=3)
    assert "3 bad samples (1 " in printed
