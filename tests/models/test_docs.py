"""The script of docs/models.md does what the page says."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from gapless.models import load_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_model_of_transformers_is_converted(tmp_path, monkeypatch, activation):
    part = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": activation}
    text = part | {"hidden_size": 16, "intermediate_size": 40, "vocab_size": 49408, "eos_token_id": 49407}
    vision = part | {"hidden_size": 24, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    torch.manual_seed(3)
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "hf")
    output = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(output))
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "convert.py").write_text(script)
    monkeypatch.setattr("sys.argv", ["convert.py", str(tmp_path / "hf"), str(tmp_path / "clip")])
    runpy.run_path(str(tmp_path / "convert.py"))
    loaded = load_model(str(tmp_path / "clip"))
    ours = loaded.model.eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    tokens = loaded.tokenizer(["a dog", "two red cats", "the sun over a hill"])
    with torch.no_grad():
        expected = theirs(input_ids=tokens, pixel_values=ours.pixels(images))
        torch.testing.assert_close(ours.encode_image(images), expected.image_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.encode_text(tokens), expected.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.std.flatten(), torch.tensor(output["image_std"]))
