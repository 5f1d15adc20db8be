"""Files of weights as they come: every kind is read or named in one line, and nothing in them is run."""

import copy
import io
import json
import logging
import pickle
import warnings
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from gapless.config import ModelConfig
from gapless.errors import ConfigError, DataError
from gapless.models import build_model
from gapless.models.weights import read_weights
from tests.runs import TINY


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(5)
    return {quick: open_clip.CLIP(**TINY, quick_gelu=quick).eval() for quick in (False, True)}


def archive(model, path):
    """A TorchScript archive as OpenAI's: traced, in half precision."""
    example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to part with TorchScript; OpenAI's files stay
        traced = torch.jit.trace(copy.deepcopy(model), example, check_trace=False)
        torch.jit.save(traced.half(), path)
    return path


def built(path, **architecture):
    return build_model(ModelConfig(name="custom", architecture=TINY | architecture, pretrained=str(path)))[0]


def test_every_form_of_the_same_weights_is_read(clip, tmp_path):
    state = clip[False].state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    training = {"epoch": 3, "name": "run", "state_dict": {f"module.{n}": t for n, t in state.items()}, "optimizer": {}}
    torch.save(training, tmp_path / "d.pt")
    (tmp_path / "e.weights").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for path in sorted(tmp_path.iterdir()):
        loaded = built(path).clip.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items()), path


def test_openai_archives_are_read_without_their_code(clip, tmp_path):
    path = archive(clip[True], tmp_path / "ViT.pt")
    weights = read_weights(path)
    assert weights.quick_gelu is True
    state = clip[True].state_dict()
    model = built(path, quick_gelu=True)
    for name, tensor in model.clip.state_dict().items():
        torch.testing.assert_close(tensor, state[name].half().float())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert read_weights(archive(clip[False], tmp_path / "gelu.pt")).quick_gelu is False


def test_an_archive_that_wants_to_run_something_is_refused(clip, tmp_path):
    source, path = archive(clip[True], tmp_path / "ViT.pt"), tmp_path / "evil.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Evil()) if name.endswith("/data.pkl") else old.read(name))
    with pytest.raises(DataError, match="wants to call"):
        read_weights(path)


@pytest.mark.parametrize("known", ["archive", "metadata", "config beside", "open_clip's run"])
@pytest.mark.parametrize("trained", [True, False])
def test_another_activation_is_refused_wherever_it_is_known(clip, tmp_path, known, trained):
    path, state = tmp_path / "weights.pt", clip[trained].state_dict()
    if known == "archive":
        archive(clip[trained], path)
    elif known == "metadata":
        save_file(state, path, {"quick_gelu": json.dumps(trained)})
    elif known == "config beside":
        torch.save(state, path)
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY | {"quick_gelu": trained}}))
    else:
        name = "ViT-B-32-quickgelu" if trained else "ViT-B-32"
        torch.save({"state_dict": state, "name": f"2026_01_02-03_04_05-model_{name}-lr_0.1-b_2"}, path)
    assert read_weights(path).quick_gelu is trained
    with pytest.raises(ConfigError, match=f"quick_gelu: .* set it to {str(trained).lower()}"):
        built(path, quick_gelu=not trained)


def test_an_unknown_activation_is_said(clip, tmp_path, caplog):
    torch.save(clip[True].state_dict(), tmp_path / "weights.pt")
    with caplog.at_level(logging.INFO, "gapless"):
        built(tmp_path / "weights.pt")
    assert "does not say with which activation it was trained: custom has GELU" in caplog.text


def test_preprocessing_beside_weights_is_theirs(clip, tmp_path):
    torch.save(clip[False].state_dict(), tmp_path / "weights.pt")
    tree = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(tree))
    model = built(tmp_path / "weights.pt")
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert model.export_config()["preprocess_cfg"]["mean"] == [0.1, 0.2, 0.3]


def saved(tree, **options):
    stream = io.BytesIO()
    torch.save(tree, stream, **options)
    return stream.getvalue()


def zipped(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, b"x")
    return stream.getvalue()


def arrays():
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(2))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        (b'{"error": "not found"}', "is JSON text"),
        (b"\x1f\x8b\x08 gzip", "gzip archive"),
        (b"random bytes", "no weights that are known"),
        (saved(torch.nn.Linear(2, 2)), r"Python objects \(torch.nn.modules.linear.Linear\).*state_dict"),
        (saved(torch.nn.Linear(2, 2), _use_new_zipfile_serialization=False), "Python objects"),
        (saved({"weight": torch.zeros(3)})[:-100], "cut or damaged"),
        (saved({"weight": torch.zeros(99)}, _use_new_zipfile_serialization=False)[:-100], "cut or damaged"),
        (saved({"a": torch.zeros(3), "b": "text"}), r"no state dict.*a, b"),
        (saved([torch.zeros(3)]), "no state dict"),
        (saved({}), "no state dict"),
        (pickle.dumps(Evil()), "is a pickle .Python objects., not weights"),
        (pickle.dumps({"clip_embedding": [1.0], "captions": []}), "features of ClipCap"),
        (saved(Evil()), "Python objects"),
        (zipped("word/document.xml"), "zip archive of other files"),
        (arrays(), "no SigLIP of big_vision"),
        (saved({"vision_model.a": torch.zeros(1)}), "holds transformers' CLIP"),
        (saved({"mapper.0.weight": torch.zeros(1)}), "holds a captioner"),
        (saved({"weight": torch.zeros(1)}), "another architecture than custom: the file lacks"),
    ],
)
def test_what_is_no_weights_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        built(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_weights_of_another_size_are_named(clip, tmp_path):
    torch.save(clip[False].state_dict(), tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"text_projection is \[32, 16\] in the file and \[32, 8\] in the model"):
        built(tmp_path / "weights.pt", embed_dim=8)


@pytest.mark.parametrize(("name", "message"), [("nothere.pt", "does not exist"), ("", "is no file")])
def test_a_file_that_is_named_is_there(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        built(tmp_path / name)
