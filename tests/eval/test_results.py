"""Files of results: what gets one of its own, what replaces what, what older ones say, and what is put side by side."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clip_benchmark.cli import main as clip_benchmark

from gapless.config import ModelConfig
from gapless.errors import DataError
from gapless.eval.compare import columns
from gapless.eval.results import Result, load_results, save_result
from gapless.models import build_model, save_export
from tests.data.pictures import picture
from tests.runs import TINY, run

BEFORE = Path(__file__).parents[1] / "data" / "before"
"""What version 0.1 wrote before results had a format."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "base"
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), folder / "export")
    return folder


def pairs(folder: Path, n: int, word: str) -> Path:
    folder.mkdir(parents=True)
    for k in range(n):
        (folder / f"{k}.png").write_bytes(picture(seed=k))
        (folder / f"{k}.txt").write_text(f"{word} number {k}")
    return folder


def result(**changes) -> Result:
    made = Result("six", "zeroshot_classification", {"acc1": 0.5}, "m", "p", num_samples=4, split="test")
    return replace(made, **changes)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"split": "val"}, "split": "val"},
        {"settings": {"transform": "mean 12ab34cd"}},
        {"settings": {"folds": 5}},
        {"settings": {"lambdas": [0.5, 1.0]}},
        {"settings": {"precision": "bf16"}},
        {"data": "/data/flickr30k"},
        {"weights": "/runs/other/export"},
        {"dataset": "s/x"},  # reads as s-x in the name of its file
        {"variant": "0.5", "model": "m@0.5"},
    ],
)
def test_what_differs_has_a_file_of_its_own_and_the_same_again_has_not(tmp_path, change):
    base = result(dataset="s-x") if "dataset" in change else result()
    first = save_result(base, tmp_path)
    text = first.read_text()
    second = save_result(result(**change), tmp_path)
    assert first.read_text() == text
    assert first != second
    again = save_result(result(**change, metrics={"acc1": 0.25}), tmp_path)
    assert again == second
    assert len(load_results(tmp_path)) == 2
    assert sorted(r.metrics["acc1"] for r in load_results(tmp_path)) == [0.25, 0.5]


def test_names_are_todays_for_defaults_and_say_the_settings_otherwise(tmp_path):
    assert save_result(result(), tmp_path).name == "six_p_m_en_zeroshot_classification.json"
    path = save_result(result(settings={"split": "val", "lambdas": [0.5, 1.0]}), tmp_path)
    assert path.name == "six_p_m_en_zeroshot_classification_lambdas-0.5-1_split-val.json"
    assert json.loads(path.read_text())["settings"] == {"split": "val", "lambdas": [0.5, 1.0]}
    long = save_result(result(pretrained="x" * 300), tmp_path)
    assert len(long.name) < 210
    assert load_results(tmp_path)[-1].pretrained == "x" * 300


def test_a_run_that_was_moved_keeps_its_files(tmp_path):
    old, new = tmp_path / "a", tmp_path / "b"
    save_result(result(weights=str(old / "export")), old / "results")
    old.rename(new)
    save_result(result(weights=str(new / "export")), new / "results")
    assert len(list((new / "results").glob("*.json"))) == 1


@pytest.mark.filterwarnings("ignore")  # of its reader
def test_clip_benchmark_reads_the_folder(tmp_path, monkeypatch):
    save_result(result(samples={"acc1": torch.ones(4)}), tmp_path / "r")
    save_result(result(settings={"split": "val"}), tmp_path / "r")
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "build", str(tmp_path / "r"), "--output", str(tmp_path / "t")])
    clip_benchmark()
    rows = list(csv.DictReader((tmp_path / "t").open()))
    assert sorted(row["settings"] for row in rows) == ["{'split': 'val'}", "{}"]
    assert {row["acc1"] for row in rows} == {"0.5"}


def test_older_results_are_read_by_the_old_rule_and_replaced_by_the_same_evaluation(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(BEFORE / "results", folder / "results")
    (folder / "export").mkdir()
    found = load_results(folder)
    assert len(found) == 5
    assert next(r for r in found if r.task == "gap").metrics["centroid_distance"] == pytest.approx(1.3060, abs=1e-4)
    assert [len(r.samples) for r in found if r.task == "zeroshot_retrieval"] == [2]
    assert list(columns({"tiny": folder})) == ["tiny"]
    new = Result("emoji", "gap", {"centroid_distance": 0.1}, "tiny", "/x/tiny/export", weights=str(folder / "export"))
    save_result(replace(new, settings={"split": "val"}), folder / "results")
    assert len(load_results(folder)) == 6
    save_result(new, folder / "results")
    assert len(load_results(folder)) == 6
    assert {r.metrics["centroid_distance"] for r in load_results(folder) if r.task == "gap"} == {0.1}
    path = next((folder / "results").glob("*gap.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(DataError, match="format 9"):
        load_results(folder)


def test_data_sets_and_splits_of_pairs_do_not_replace_each_other(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, n in (("one", 12), ("other", 9)):
        pairs(tmp_path / name, n, name)
    shared = ("eval", str(model), "--datasets=[pairs]", "--tasks=[retrieval]", "--no_cache", "--workers=0")
    source = ("--data.source=folder", "--output=out", "--data.val_fraction=0.99")

    def files() -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted((tmp_path / "out").glob("*.json"))}

    run(*shared, *source, "--data.path=one", "--data.val_path=one")
    first = files()
    run(*shared, *source, "--data.path=one", f"--data.val_path={tmp_path / 'one'}")
    assert files() == first
    run(*shared, *source, "--data.path=other", "--data.val_path=other")
    second = files()
    assert len(second) == 2
    assert first.items() <= second.items()
    run(*shared, *source, "--data.path=one", "--data.val_path=one", "--split=train", "--captions=first")
    run(*shared, *source, "--data.path=one", "--data.val_path=one", "--data.val_samples=6")
    assert len(files()) == 4
    assert second.items() <= files().items()
    assert [r.split for r in load_results(tmp_path / "out") if r.settings.get("split")] == ["train"]
    said = run("eval", "--compare", str(tmp_path / "out"))
    assert f"of {tmp_path / 'one'}" in said
    assert "split train" in said


def test_the_same_model_by_another_path_is_one_file(model, tmp_path, monkeypatch):
    shared = ("--datasets=[emoji_skin_tone]", "--no_cache", "--workers=0")
    copy = shutil.copytree(model, tmp_path / "runs" / "base")
    (tmp_path / "link").symlink_to(copy)
    monkeypatch.chdir(tmp_path)
    run("eval", "runs/base", *shared)
    (path,) = (copy / "results").glob("*.json")
    assert path.name == "emoji_skin_tone_runs-base-export_base_en_zeroshot_classification.json"
    run("eval", str(copy), *shared)
    run("eval", "link", *shared)
    monkeypatch.chdir(copy)
    run("eval", ".", *shared)
    assert list((copy / "results").glob("*.json")) == [path]


def test_what_is_missing_is_found_before_and_what_is_there_is_kept(model, tmp_path):
    images = tmp_path / "good" / "test" / "cat"
    images.mkdir(parents=True)
    for k in range(3):
        (images / f"{k}.png").write_bytes(picture(seed=k))
    output = tmp_path / "out"
    shared = ("eval", str(model), f"--output={output}", "--workers=0", "--no_cache", f"--root={tmp_path}/{{dataset}}")
    said = run(*shared, "--datasets=[emoji_skin_tone, wds/gone]", code=3)
    assert "nshards.txt" in said
    assert "on emoji_skin_tone" not in said
    assert not output.exists()
    (tmp_path / "imagefolder").symlink_to(tmp_path / "good")
    (images / "3.png").write_bytes(b"no picture")
    assert "1 of 4 images" in run(*shared, "--datasets=[emoji_skin_tone, imagefolder]", code=3)
    assert [r.dataset for r in load_results(output)] == ["emoji_skin_tone"]


def test_a_model_that_is_not_finite_ends_with_4_and_writes_nothing(model, tmp_path):
    from safetensors.torch import load_file, save_file

    for tower, name in (("image", "visual.proj"), ("text", "text_projection")):
        broken = shutil.copytree(model, tmp_path / tower)
        path = broken / "export" / "open_clip_model.safetensors"
        weights = load_file(path)
        weights[name][0, 0] = torch.nan
        save_file(weights, path)
        said = run("eval", str(broken), "--datasets=[emoji_skin_tone]", "--workers=0", code=4)
        assert said.splitlines()[-1].startswith(f"gapless: error: evaluation: the {tower} features of ")
        assert not (broken / "results").exists()


@pytest.mark.parametrize(
    "argument", ["--lambdas=[]", "--noise=-1", "--workers=-1", "--datasets=[]", "--draws=0", "--heads=h"]
)
def test_wrong_settings_are_one_line_before_the_model_is_loaded(argument):
    last = run("eval", "ViT-no-such-model", argument, code=2).splitlines()[-1]
    assert last.startswith(f"gapless: error: {argument[2:].partition('=')[0]}: ")


def test_wrong_alphas_are_one_line():
    for alphas in ("nan", "", "0,inf"):
        said = run("eval", "ViT-no-such-model", "--interpolate=none", f"--alphas={alphas}", code=2)
        assert said.splitlines()[-1].startswith("gapless: error: --alphas: ")
