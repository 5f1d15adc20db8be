"""gapless eval on real input: runs, exports, data sets in clip_benchmark's layout, bad input."""

import io
import json
import math
import shutil
import tarfile
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image

from gapless.config import EvalPlan, ModelConfig
from gapless.data.emoji import all_emoji
from gapless.data.shards import ShardSource
from gapless.eval.results import Result, load_results, save_result
from gapless.eval.run import evaluate, save_on_main
from gapless.eval.suite import Suite
from gapless.geometry import close_gap
from gapless.models import build_model, load_export, load_model, save_export
from tests.processes import run_processes
from tests.runs import TINY, run, tiny_config, write_config

NAMES = ("dog", "cat", "red car", "house", "tree", "flag")
TEMPLATES = ("a photo of a {c}.", "an emoji of {c}, drawn.")


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "export"
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), folder)
    return folder


def picture(path):
    """An emoji as a picture of the model's size, so that no two ways of resizing it differ."""
    with Image.open(path) as image:
        rgba = image.convert("RGBA").resize((32, 32))
    buffer = io.BytesIO()
    Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """61 pictures of six classes in two shards, as clip_benchmark lays them out."""
    root = tmp_path_factory.mktemp("wds")
    (root / "test").mkdir()
    chosen = all_emoji()[::60][:61]
    for shard in range(2):
        with tarfile.open(root / "test" / f"{shard}.tar", "w") as tar:
            for k, each in list(enumerate(chosen))[shard::2]:
                add(tar, f"s{k:04d}.png", picture(each.path))
                add(tar, f"s{k:04d}.cls", str(k % 6).encode())
    (root / "test" / "nshards.txt").write_text("2")
    (root / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    return root


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """45 pictures with one to four captions."""
    root = tmp_path_factory.mktemp("captioned")
    (root / "test").mkdir()
    with tarfile.open(root / "test" / "0.tar", "w") as tar:
        for k, each in enumerate(all_emoji()[::70][:45]):
            add(tar, f"s{k:04d}.png", picture(each.path))
            texts = [*each.captions, f"picture {k}", f"number {k} of all"][: 1 + k % 4]
            add(tar, f"s{k:04d}.txt", "\n".join(texts).encode())
    (root / "test" / "nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text("retrieval")
    return root


def read(folder, task, dataset=None):
    found = [json.loads(p.read_text()) for p in folder.glob("*.json")]
    return next(r["metrics"] for r in found if r["task"] == task and dataset in (None, r["dataset"]))


def theirs(export):
    """The export as open_clip loads it, with a transform that gives exactly our pixels."""
    model, tokenizer = load_export(export)
    other = open_clip.create_model(f"local-dir:{export}").eval()
    transform = open_clip.image_transform(
        32, is_train=False, mean=model.preprocess["mean"], std=model.preprocess["std"], interpolation="bicubic"
    )
    return other, tokenizer, transform


@pytest.mark.filterwarnings("ignore")  # of their reader
def test_zero_shot_is_clip_benchmarks(export, classes, tmp_path):
    run("eval", str(export), "--datasets=[wds/six]", f"--root={classes}", f"--output={tmp_path}", "--workers=0")
    found = read(tmp_path, "zeroshot_classification")
    model, tokenizer, transform = theirs(export)
    data = build_dataset("wds/six", root=str(classes), transform=transform, split="test")
    loader = torch.utils.data.DataLoader(data.batched(16), batch_size=None)
    head = zeroshot_classification.zero_shot_classifier(
        model, tokenizer, data.classes, data.templates, "cpu", amp=False
    )
    logits, target = zeroshot_classification.run_classification(model, head, loader, "cpu", amp=False)
    assert len(target) == 61
    top = logits.topk(5, dim=1).indices
    assert found["acc1"] == pytest.approx((top[:, 0] == target).double().mean().item(), abs=1e-4)
    assert found["acc5"] == pytest.approx((top == target[:, None]).any(1).double().mean().item(), abs=1e-4)
    result = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert (result["dataset"], result["num_samples"], result["language"]) == ("wds/six", 61, "en")


@pytest.mark.filterwarnings("ignore")  # of their reader
def test_retrieval_is_clip_benchmarks(export, captioned, tmp_path):
    run("eval", str(export), "--datasets=[wds/some]", f"--root={captioned}", f"--output={tmp_path}", "--workers=0")
    found = read(tmp_path, "zeroshot_retrieval")
    model, tokenizer, transform = theirs(export)
    data = build_dataset("wds/some", root=str(captioned), transform=transform, split="test", task="zeroshot_retrieval")
    batches = [(torch.stack([x]), [texts]) for x, texts in data]
    expected = zeroshot_retrieval.evaluate(model, batches, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    assert found["num_images"] == 45
    assert found["num_texts"] > 100
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert {"centroid_distance", "linear_separability"} <= set(read(tmp_path, "gap"))


def test_a_runs_own_validation_gives_the_numbers_of_training(tmp_path):
    config = write_config(tiny_config(tmp_path), tmp_path / "run.yaml")
    run("train", f"--config={config}")
    folder = tmp_path / "tiny"
    said = run("eval", str(folder), "--datasets=[val]")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = next(line for line in reversed(lines) if "val/centroid_distance" in line)
    found = read(folder / "results", "pairs")
    for name, value in found.items():
        assert value == pytest.approx(trained[name], abs=1e-6), name
    assert "val/num_samples" in found
    assert "1 results in" in said
    # A checkpoint's scores lie in the run, apart from the export's, however it is named.
    best = (folder / "checkpoints" / "best").resolve().name
    own = (folder / "results" / next(p.name for p in (folder / "results").glob("*.json"))).read_text()
    assert f"tiny@{best}" in run("eval", str(folder), "--datasets=[val]", "--checkpoint=best")
    run("eval", str(folder / "checkpoints" / best), "--datasets=[val]")
    assert not list(folder.glob("checkpoints/*/results"))
    results = {r.variant: r for r in load_results(folder)}
    assert set(results) == {"", best}
    assert results[""].path.read_text() == own
    logged = next(line for line in lines if line["step"] == int(best[5:]) and "val/centroid_distance" in line)
    assert results[best].metrics["val/alignment"] == pytest.approx(logged["val/alignment"], abs=1e-6)
    assert [r.variant for r in load_results(folder / "checkpoints" / "best")] == [best]
    said = run("eval", str(folder), "--checkpoint=bset", code=3)
    assert f"has no checkpoint 'bset' (it has best, latest, {min(best, 'step_')}" in said
    assert "is not the folder of a run" in run("eval", "ViT-B-32", "--checkpoint=best", code=2)


def scores(export, classes, captioned, folder):
    """Results of both data sets; in one of the processes, too."""
    for name, root in (("wds/six", classes), ("wds/some", captioned)):
        evaluate(load_model(export), EvalPlan([name], root=root, workers=0), keep=partial(save_on_main, Path(folder)))


def test_two_processes_give_the_numbers_of_one(export, classes, captioned, tmp_path):
    arguments = [str(path) for path in (export, classes, captioned)]
    scores(*arguments, tmp_path / "one")
    run_processes(2, scores, *arguments, str(tmp_path / "two"))
    for task in ("zeroshot_classification", "zeroshot_retrieval", "gap"):
        assert read(tmp_path / "two", task) == pytest.approx(read(tmp_path / "one", task), abs=1e-6)


def test_interpolation_ends_at_the_two_models(export, classes, tmp_path):
    other = tmp_path / "other"
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=5), other)
    shared = (f"--root={classes}", "--datasets=[wds/six]", "--workers=0")
    for folder in (export, other):
        run("eval", str(folder), f"--output={tmp_path / folder.name}-results", "--no_cache", *shared)
    said = run(
        "eval", str(other), f"--interpolate={export}", "--alphas=0,0.5,1", f"--output={tmp_path / 'mixed'}", *shared
    )
    assert "alpha=0.5" in said
    found = {r.model: r.metrics for r in load_results(tmp_path / "mixed")}
    assert found["other@0"] == pytest.approx(read(tmp_path / "export-results", "zeroshot_classification"))
    assert found["other@1"] == pytest.approx(read(tmp_path / "other-results", "zeroshot_classification"))
    assert found["other@0.5"]["centroid_distance"] != found["other@1"]["centroid_distance"]


def test_results_are_strict_json_with_clip_benchmarks_keys(tmp_path):
    path = save_result(Result("wds/a b", "linear_probe", {"acc1": 0.5, "acc5": math.nan}, "m/x", "p"), tmp_path)
    assert path.name == "wds-a-b_p_m-x_en_linear_probe.json"
    tree = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no strict JSON"))
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(tree)
    assert math.isnan(load_results(tmp_path)[0].metrics["acc5"])


def test_broken_images_are_counted_and_named(export, classes, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(classes, root)
    for leftover in root.rglob("*.index.json"):
        leftover.unlink()
    with tarfile.open(root / "test" / "1.tar", "a") as tar:
        add(tar, "bad.png", b"no picture")
        add(tar, "bad.cls", b"1")
    arguments = (
        "eval",
        str(export),
        "--datasets=[wds/six]",
        f"--root={root}",
        f"--output={tmp_path / 'r'}",
        "--workers=0",
    )
    assert "1 of 62 images cannot be used" in run(*arguments, code=3)
    said = run(*arguments, "--max_bad_fraction=0.1")
    assert "left out bad" in said
    assert "61 images, 1 left out" in said


@pytest.mark.parametrize(
    ("change", "arguments", "code", "message"),
    [
        ("classnames.txt", ["--datasets=[wds/six]"], 3, "classnames.txt, it cannot be read"),
        ("few", ["--datasets=[wds/six]"], 3, "classnames.txt has 2 classes, but a sample has class 5"),
        ("test/nshards.txt", ["--datasets=[wds/six]"], 3, "nshards.txt"),
        (None, ["--datasets=[cifra10]"], 2, "no data set 'cifra10'"),
        (None, ["--datasets=[cifar10]"], 3, "download=true"),
        (None, ["--datasets=[simat]"], 3, "triplets"),
        (None, ["--datasets=[emoji]", "--captions=some"], 2, "captions: "),
        (None, ["--datasets=[val]"], 3, "val needs a run"),
        (None, ["--datasets=[imagefolder]"], 3, "a folder for each class"),
    ],
)
def test_bad_input_is_one_line(export, classes, tmp_path, change, arguments, code, message):
    root = tmp_path / "data"
    shutil.copytree(classes, root)
    if change == "few":
        (root / "classnames.txt").write_text("dog\ncat\n")
    elif change:
        (root / change).unlink()
    said = run("eval", str(export), *arguments, f"--root={root}", f"--output={tmp_path / 'r'}", code=code)
    line = said.strip().splitlines()[-1]
    assert line.startswith("gapless: error: ")
    assert message in line


def test_further_data_sets_are_scored_while_a_model_trains(classes, tmp_path):
    tree = tiny_config(tmp_path, eval__datasets=["wds/six"], eval__root=str(classes), train__epochs=1)
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}")
    lines = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "wds/six/acc1" in line]
    assert len(logged) == 2  # before the first step and after the last
    run("eval", str(tmp_path / "tiny"), "--datasets=[wds/six]", f"--root={classes}", "--workers=0")
    for name, value in read(tmp_path / "tiny" / "results", "zeroshot_classification").items():
        assert logged[-1][f"wds/six/{name}"] == pytest.approx(value, abs=1e-6)


def test_a_model_that_is_nowhere_is_one_line(tmp_path):
    said = run("eval", str(tmp_path / "nothing"), code=2)
    assert "nothing' is neither the folder of a run or an export nor a model of open_clip" in said
    (tmp_path / "empty").mkdir()
    assert "has no open_clip_config.json" in run("eval", str(tmp_path / "empty"), code=3)


def test_a_transform_moves_what_is_scored_and_an_export_carries_it(export, captioned, tmp_path):
    model = shutil.copytree(export, tmp_path / "model")
    some = ("--datasets=[wds/some]", f"--root={captioned}", "--workers=0", "--no-cache")
    run("eval", str(model), f"--output={tmp_path / 'before'}", *some)
    source = ShardSource([str(captioned / "test" / "0.tar")])
    embedded = Suite(load_model(str(model)), workers=0).embed("some", source, "first")
    path = tmp_path / "t.safetensors"
    close_gap(embedded.image, embedded.text, "mean").save(path)
    run("eval", str(model), f"--output={tmp_path / 'after'}", "--transform", str(path), *some)
    before, after = (read(tmp_path / name, "gap") for name in ("before", "after"))
    assert after["centroid_distance"] < 0.3 * before["centroid_distance"]
    shutil.copy(path, model / "transform.safetensors")
    assert "are moved by" in run("eval", str(model), f"--output={tmp_path / 'carried'}", *some)
    assert read(tmp_path / "carried", "gap") == after
    assert "transform: not with val" in run("eval", str(model), "--datasets=[val]", code=2)
    assert "is not there" in run("eval", str(export), "--transform", str(tmp_path / "none.safetensors"), code=3)
