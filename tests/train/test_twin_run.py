"""Runs of identical towers, through the command."""

import json

import pytest
import torch

from gapless.eval import load_pairs
from gapless.models import load_export
from tests.runs import metrics, run, run_killed, run_together, tiny_config, write_config

TWIN = {
    "model__towers": "image-image",
    "model__initial_gap": "procrustes",
    "model__temperature": 0.07,
    "loss__preset": "clip",
    "eval__split": "train",
}


def config(tmp_path, folder="runs", **changes):
    path = write_config(tiny_config(tmp_path / folder, **TWIN | changes), tmp_path / f"{folder}.yaml")
    return path, tmp_path / folder / "tiny"


def test_a_twin_begins_without_a_gap_and_is_the_same_after_a_kill(tmp_path):
    path, whole = config(tmp_path, "whole")
    output = run("train", "--config", str(path))
    assert "initial gap removed (procrustes, fitted on 96 training pairs)" in output
    path, untouched = config(tmp_path, "untouched", model__initial_gap="keep")
    run("train", "--config", str(path))
    first, kept = (metrics(folder)[0] for folder in (whole, untouched))
    assert first["val/num_samples"] == 96  # the training pairs
    assert first["val/centroid_distance"] < 0.1 < kept["val/centroid_distance"]
    path, broken = config(tmp_path, "broken")
    run_killed(broken / "metrics.jsonl", 5, "train", "--config", str(path))
    assert "resuming" in run("train", "--config", str(path))
    assert metrics(broken) == metrics(whole)
    rotations = [load_export(folder / "export")[0].clip.rotation for folder in (whole, broken)]
    assert torch.equal(*rotations)
    assert not torch.equal(rotations[0], torch.eye(16))


def test_embeddings_of_the_first_and_last_epoch_are_kept_and_are_what_was_evaluated(tmp_path):
    path, folder = config(tmp_path, eval__keep_embeddings=[0, -1])
    run("train", "--config", str(path))
    assert sorted(p.stem for p in (folder / "embeddings").iterdir()) == ["epoch_00000", "epoch_00002"]
    features = load_pairs(folder / "embeddings" / "epoch_00002.safetensors")
    assert len(set(features.keys)) == 96
    distance = float((features.image.mean(dim=0) - features.text.mean(dim=0)).norm())
    last = [line for line in metrics(folder) if "val/centroid_distance" in line][-1]
    assert distance == pytest.approx(last["val/centroid_distance"], abs=1e-5)


def test_a_trained_twin_is_evaluated_offline_as_it_was_in_training(tmp_path):
    path, folder = config(tmp_path)
    run("train", "--config", str(path))
    assert "image-image towers, it can be scored on val only" in run("eval", str(folder), code=2)
    run("eval", str(folder), "--datasets=[val]")
    found = json.loads(next((folder / "results").glob("*.json")).read_text())["metrics"]
    last = [line for line in metrics(folder) if "val/centroid_distance" in line][-1]
    for name in ("val/centroid_distance", "val/alignment", "val/text_retrieval_recall@1"):
        assert found[name] == pytest.approx(last[name], abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__towers": "text-text"},
        {"model__shared_tower": True, "data__second_image": "openmoji"},
        {"model__towers": "image-text", "data__mismatched": 0.5},
        {"model__initial_gap": "translate"},
    ],
)
def test_the_other_settings_train_and_doctor_knows_them(tmp_path, changes):
    path, folder = config(tmp_path, **changes, train__epochs=1, checkpoint__every_steps=None)
    output = run("doctor", "--config", str(path))
    assert "fails" not in output
    run("train", "--config", str(path))
    lines = metrics(folder)
    assert lines[-1]["train/loss" if "train/loss" in lines[-1] else "val/alignment"] > 0


def test_two_processes_train_a_twin_as_one(tmp_path):
    path, alone = config(tmp_path, "alone", data__batch_size=15, data__drop_last=False)
    run("train", "--config", str(path))
    path, together = config(tmp_path, "together", data__batch_size=15, data__drop_last=False)
    run_together(tmp_path, "train", "--config", str(path))
    for one, other in zip(metrics(alone), metrics(together), strict=True):
        for name in ("train/loss", "val/centroid_distance", "val/alignment"):
            if name in one:
                assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4), (one["step"], name)
