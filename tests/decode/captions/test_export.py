"""gapless export of captioners, and folders of captioners whose writing was interrupted."""

import pytest
import torch
from safetensors.torch import load_file

from gapless.decode import load_captioner
from gapless.decode.captions.captioner import save_captioner
from gapless.errors import DataError
from tests.decode.stores import tree, write_store
from tests.runs import run, write_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    space = write_store(folder / "space")
    changes = {"train__epochs": 2, "optim__ema_decay": 0.9}
    run("caption", "train", "--config", str(write_config(tree(space, folder, **changes), folder / "config.yaml")))
    return next(path.parent for path in folder.glob("*/metrics.jsonl"))


def test_a_captioners_checkpoint_is_exported_as_it_was_measured(trained, tmp_path):
    said = run("export", str(trained), "--output", str(tmp_path / "out"))
    assert "gapless caption eval" in said
    one, other = (load_file(folder / "captioner.safetensors") for folder in (trained / "export", tmp_path / "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_captioner(tmp_path / "out").embed_dim == 16
    run("export", str(trained), "--checkpoint=best", "--output", str(tmp_path / "best"))
    found = {path.name for path in (trained / "export").iterdir()}
    assert {path.name for path in (tmp_path / "best").iterdir()} == found
    assert "has no checkpoint 'step_9'" in run("export", str(trained), "--checkpoint=step_9", code=3)


@pytest.mark.parametrize("stage", ["captioner.json", "means.safetensors", "tokenizer", "captioner.safetensors"])
def test_an_interrupted_folder_is_no_mix_of_two_captioners(trained, tmp_path, monkeypatch, stage):
    captioner = load_captioner(trained)
    save_captioner(captioner, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")

    def killed(place, *_):
        if place.name == stage:
            raise KeyboardInterrupt
        return original(place)

    original = __import__("gapless.run_folder", fromlist=["_"]).write_whole
    if stage == "tokenizer":
        monkeypatch.setattr(type(captioner.tokenizer), "save_pretrained", lambda *_: killed(tmp_path / stage))
    else:
        monkeypatch.setattr("gapless.run_folder.write_whole", killed)
        monkeypatch.setattr("gapless.decode.captions.captioner.write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        save_captioner(captioner, tmp_path)
    with pytest.raises(DataError, match=r"captioner.safetensors"):
        load_captioner(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
