import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gapless.geometry import gap_statistics
from tests.runs import run, tiny_config, write_config


@pytest.fixture
def embeddings(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(240, 16, generator=generator), dim=1)
    y = F.normalize(x + 0.3 * torch.randn(240, 16, generator=generator) - 0.2, dim=1)
    path = tmp_path / "e.safetensors"
    save_file({"image": x, "text": y}, path)
    return x, y, path


def test_the_statistics_of_a_file_stand_beside_the_papers(tmp_path, embeddings):
    x, y, path = embeddings
    output = tmp_path / "ccc"
    run("reproduce", "connect-collapse-corrupt", "--only=geometry", f"--source={path}", f"--output={output}", "--quick")
    printed = (output / "connect-collapse-corrupt.md").read_text()
    found = gap_statistics(x, y, 80)
    wanted = f"| length of the gap | {found['gap_length_mean']:.3f} ± {found['gap_length_std']:.3f} |"
    assert wanted in printed
    assert "| 0.830 ± 0.010 |" in printed
    for name in ("mlp-collapse", "two-spans", "stable-region"):
        assert (output / f"{name}.png").stat().st_size > 3000
    assert r"\toprule" in (output / "connect-collapse-corrupt.tex").read_text()
    assert "only: captions is not one of" in run("reproduce", "connect-collapse-corrupt", "--only=captions", code=2)


def test_robustness_of_a_run_becomes_a_page(tmp_path):
    tree = tiny_config(tmp_path, train__epochs=1, checkpoint__every_steps=None)
    run("train", "--config", str(write_config(tree, tmp_path / "c.yaml")))
    output = tmp_path / "bof"
    printed = run("reproduce", "bug-or-feature", f"--source={tmp_path / 'tiny'}", f"--output={output}", "--quick")
    assert "Figure 9: quantisation" in printed
    results = json.loads((output / "results.json").read_text())
    assert results["Figure 14: families of noise"][0][0] == "gaussian"
    assert len(results["Figures 18 and 19: Algorithm 1 by epsilon"]) == 4
    assert "Simulation: two clusters of ten points in the plane" in (output / "report.html").read_text()
    printed = run("reproduce", "bug-or-feature", f"--source={tmp_path / 'none'}", f"--output={output}", code=3)
    assert "is not there" in printed
