"""Every verb that takes a model takes it in the same forms, and none of them scores random weights unasked."""

import pytest
import torch

from gapless.config import ModelConfig
from gapless.models import build_model, save_export
from tests.runs import TINY, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=1), folder / "export")
    torch.save(torch.nn.Linear(2, 2), folder / "whole.pt")
    return folder


VERBS = {
    "eval": ["eval", "MODEL", "--datasets=[emoji]", "--output=results"],
    "interpolate": ["eval", "export", "--interpolate=MODEL", "--datasets=[emoji]", "--output=results"],
    "caption embed": ["caption", "embed", "MODEL", "--output=store"],
    "caption eval": ["caption", "eval", "captioner", "--features=store", "--clip=MODEL"],
    "reproduce": ["reproduce", "connect-collapse-corrupt", "--source=MODEL", "--output=out", "--quick"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("model", "pretrained", "code", "message"),
    [
        ("ViT-B-32", None, 2, "ViT-B-32 needs weights, a file or a tag (openai,"),
        ("ViT-B/32", "nothere.pt", 2, "'nothere.pt' is neither a file nor a tag of ViT-B-32 (openai,"),
        ("ViT-B-32", "openai", 2, "another activation, use ViT-B-32-quickgelu"),
        ("ViT-B-32", "whole.pt", 3, "whole.pt holds Python objects"),
        ("ViT-B-23", "openai", 2, "did you mean ViT-B-32?"),
        ("export", "openai", 2, "export brings its own weights"),
    ],
)
def test_weights_that_are_named_are_loaded_or_it_is_an_error(
    place, monkeypatch, verb, model, pretrained, code, message
):
    if model == "ViT-B-32" and pretrained == "whole.pt":
        monkeypatch.setattr("gapless.models.build.create_clip", None)  # found out before anything is built
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    key = "clip_pretrained" if verb == "caption eval" else "pretrained"
    arguments = [part.replace("MODEL", model) for part in VERBS[verb]]
    said = run(*arguments, *([f"--{key}={pretrained}"] if pretrained else []), code=code)
    assert message in said
    assert len([line for line in said.splitlines() if "error" in line]) == 1
    assert "Traceback" not in said
    assert sorted(place.rglob("*")) == before
