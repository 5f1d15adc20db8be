"""gapless eval on real input: runs, exports, data sets in clip_benchmark's layout, bad input."""

import io
import json
import math
import shutil
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image

from gapless.config import DataConfig, EvalPlan, ModelConfig
from gapless.data import build_source
from gapless.data.emoji import all_emoji
from gapless.eval.compare import bootstrap_difference
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


def test_the_emoji_are_scored_at_everything_and_cached(export, tmp_path):
    arguments = ("eval", str(export), f"--output={tmp_path / 'results'}", "--workers=0", "--lambdas=[0.5, 1]")
    said = run(*arguments)
    tasks = {(r.dataset, r.task) for r in load_results(tmp_path)}
    assert tasks == {
        ("emoji", "zeroshot_retrieval"),
        ("emoji", "gap"),
        ("emoji_group", "zeroshot_classification"),
        ("emoji_skin_tone", "zeroshot_classification"),
        ("emoji_test", "embedding_arithmetic"),
    }
    assert "simat_score@0.5" in said
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()}
    assert len(kept) == 4
    before = {p.name: p.read_text() for p in (tmp_path / "results").glob("*.json")}
    run(*arguments)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()} == kept
    assert {p.name: p.read_text() for p in (tmp_path / "results").glob("*.json")} == before
    # A file cut short is made anew.
    cut = next(iter(kept))
    cut.write_bytes(cut.read_bytes()[:100])
    run(*arguments)
    assert cut.stat().st_size > 1000


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
    shared = (f"--root={classes}", "--datasets=[wds/six]", "--workers=0", "--no_cache")
    for folder in (export, other):
        run("eval", str(folder), f"--output={tmp_path / folder.name}-results", *shared)
    said = run(
        "eval", str(other), f"--interpolate={export}", "--alphas=0,0.5,1", f"--output={tmp_path / 'mixed'}", *shared
    )
    assert "alpha=0.5" in said
    found = {r.model: r.metrics for r in load_results(tmp_path / "mixed")}
    assert found["other@0"] == pytest.approx(read(tmp_path / "export-results", "zeroshot_classification"))
    assert found["other@1"] == pytest.approx(read(tmp_path / "other-results", "zeroshot_classification"))
    assert found["other@0.5"]["centroid_distance"] != found["other@1"]["centroid_distance"]


def test_comparison_marks_the_best_and_says_how_sure_it_is(tmp_path):
    hits = torch.zeros(100)
    for name, right in (("a", 60), ("b", 30)):
        hits[:right] = 1
        hits[right:] = 0
        metrics = {"acc1": right / 100, "centroid_distance": right / 50}
        result = Result("six", "zeroshot_classification", metrics, name, "x", samples={"acc1": hits.clone()})
        save_result(result, tmp_path / name)
    said = run("eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b"))
    line = next(line for line in said.splitlines() if " acc1" in line)
    assert "+0.3000 [+0.2" in line
    mean, low, high = bootstrap_difference(torch.cat([torch.ones(60), torch.zeros(40)]), torch.zeros(100))
    # The interval of a share of 0.6 among 100 is about 0.6 +- 1.96 sqrt(0.24 / 100).
    assert mean == pytest.approx(0.6)
    assert (low, high) == pytest.approx((0.504, 0.696), abs=0.012)


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


def test_tasks_in_which_a_gap_costs_most(export, tmp_path):
    tasks = "[linear_probe, intra_modal, mixed, clustering]"
    run("eval", str(export), f"--tasks={tasks}", f"--output={tmp_path / 'results'}", "--workers=0")
    found = {(r.dataset, r.task): r.metrics for r in load_results(tmp_path)}
    assert set(found) == {
        ("emoji", "mixed_modality_retrieval"),
        ("emoji", "intra_modal_retrieval"),
        ("emoji", "joint_clustering"),
        *((f"emoji_{c}", t) for c in ("group", "skin_tone") for t in ("linear_probe", "intra_modal_retrieval")),
    }
    # Even a random model's features tell nine groups better than chance.
    assert found["emoji_group", "linear_probe"]["lp_acc1"] > 0.3
    assert 0 < found["emoji", "intra_modal_retrieval"]["text_map"] < 1


def pictures(folder, names):
    folder.mkdir(parents=True)
    for k, name in enumerate(names):
        (folder / name).write_bytes(picture(all_emoji()[40 * k].path))


def test_classes_under_noise_and_in_other_words(export, classes):
    loaded = load_model(str(export))
    plan = EvalPlan(datasets=["wds/classes"], root=str(classes), tasks=["zero_shot", "robustness"], draws=4, workers=0)
    plain, noisy = (result.metrics for result in evaluate(loaded, plan))
    assert noisy["acc1@0"] == plain["acc1"]
    assert noisy["acc1@1"] == noisy["acc1@0"]  # six prompts in more dimensions: the move is orthogonal to them
    assert 0 <= noisy["robustness@0"] <= 1
    assert noisy["white_noise_correlation"] > 0.5
    assert noisy["rephrasing_correlation"] > 0.5
    silent = evaluate(loaded, replace(plan, tasks=["robustness"], noise=0.0))[0].metrics
    assert silent["robustness@0"] == silent["robustness@1"] == 1


def test_questions_and_selections_in_their_own_formats(export, tmp_path):
    pictures(tmp_path / "val2017", [f"{k:012d}.jpg" for k in range(6)])
    questions = [
        {
            "image_id": k,
            "question": f"What is number {k}?",
            "choices": ["dog", "cat", "car", f"thing {k}"],
            "correct_choice_idx": k % 3,
            "direct_answers": [["hound", "puppy"], ["kitten"], ["automobile"]][k % 3],
        }
        for k in range(6)
    ]
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps(questions))
    pairs = {
        str(3 * k): {"filename": f"{k:012d}.jpg", "caption": f"a {n}", "negative_caption": "no"}
        for k, n in enumerate(NAMES)
    }
    (tmp_path / "swap_obj.json").write_text(json.dumps(pairs))
    pictures(tmp_path / "images", [f"ex_{k}_img_{i}.png" for k in range(3) for i in range(2)])
    lines = [
        {"image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1", "caption_0": f"{k} a b", "caption_1": f"{k} b a"}
        for k in range(3)
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    names = "[aokvqa, sugar_crepe/swap_obj, winoground]"
    run("eval", str(export), f"--datasets={names}", f"--root={tmp_path}", f"--output={tmp_path / 'r'}", "--workers=0")
    found = {r.dataset: r for r in load_results(tmp_path / "r")}
    assert found["aokvqa"].metrics["num_questions"] == 6
    assert found["aokvqa"].samples["acc"].mean().item() == pytest.approx(found["aokvqa"].metrics["acc"])
    arguments = ("--datasets=[aokvqa]", "--tasks=[robustness]", f"--root={tmp_path}", f"--output={tmp_path / 'n'}")
    run("eval", str(export), *arguments, "--draws=3", "--workers=0")
    noisy = next(r for r in load_results(tmp_path / "n") if r.task == "multiple_choice_robustness").metrics
    assert noisy["acc@0"] == noisy["acc@1"] == found["aokvqa"].metrics["acc"]
    assert {f"{name}@{alpha}" for name in ("robustness", "rephrasing_acc") for alpha in ("0", "0.5", "1")} <= set(noisy)
    assert found["sugar_crepe/swap_obj"].metrics["image_acc"] == 1  # one image only
    assert len(found["winoground"].samples["acc"]) == 3
    (tmp_path / "swap_obj.json").write_text("[1]")
    said = run("eval", str(export), "--datasets=[sugar_crepe/swap_obj]", f"--root={tmp_path}", code=3)
    assert "not SugarCrepe's format" in said


def test_further_data_sets_are_scored_while_a_model_trains(classes, tmp_path):
    tree = tiny_config(tmp_path, eval__datasets=["wds/six"], eval__root=str(classes), train__epochs=1)
    run("train", f"--config={write_config(tree, tmp_path / 'run.yaml')}")
    lines = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "wds/six/acc1" in line]
    assert len(logged) == 2  # before the first step and after the last
    run("eval", str(tmp_path / "tiny"), "--datasets=[wds/six]", f"--root={classes}", "--workers=0")
    for name, value in read(tmp_path / "tiny" / "results", "zeroshot_classification").items():
        assert logged[-1][f"wds/six/{name}"] == pytest.approx(value, abs=1e-6)


def test_folds_are_scored_one_by_one(export, captioned, tmp_path):
    shared = ("eval", str(export), "--datasets=[wds/some]", f"--root={captioned}", "--workers=0", "--no_cache")
    run(*shared, "--folds=5", f"--output={tmp_path / 'five'}")
    run(*shared, f"--output={tmp_path / 'one'}")
    five, one = (read(tmp_path / name, "zeroshot_retrieval") for name in ("five", "one"))
    assert five["text_retrieval_recall@1"] > one["text_retrieval_recall@1"]
    assert five["num_texts"] == one["num_texts"]
    assert five["text_retrieval_mean_rank"] < one["text_retrieval_mean_rank"]
    assert "folds: 0" in run(*shared, "--folds=0", code=2)


def test_a_model_that_is_nowhere_is_one_line(tmp_path):
    said = run("eval", str(tmp_path / "nothing"), code=2)
    assert "nothing' is neither the folder of a run or an export nor a model of open_clip" in said
    (tmp_path / "empty").mkdir()
    assert "has no open_clip_config.json" in run("eval", str(tmp_path / "empty"), code=3)


def test_a_transform_moves_what_is_scored_and_an_export_carries_it(export, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(export, model)
    run("eval", str(model), "--output", str(tmp_path / "before"), "--workers=0", "--no-cache")
    suite = Suite(load_model(str(model)), workers=0)
    embedded = suite.embed("emoji", build_source(DataConfig(), "test"), "first")
    close_gap(embedded.images.features, embedded.texts, "mean").save(tmp_path / "t.safetensors")
    run(
        "eval",
        str(model),
        "--output",
        str(tmp_path / "after"),
        "--workers=0",
        "--transform",
        str(tmp_path / "t.safetensors"),
    )
    before, after = (read(tmp_path / name, "gap") for name in ("before", "after"))
    assert after["centroid_distance"] < 0.3 * before["centroid_distance"]
    moved = {r.task: r.metrics for r in load_results(tmp_path / "after")}
    still = {r.task: r.metrics for r in load_results(tmp_path / "before")}
    assert moved["zeroshot_classification"] != still["zeroshot_classification"]
    assert moved["embedding_arithmetic"] != still["embedding_arithmetic"]
    shutil.copy(tmp_path / "t.safetensors", model / "transform.safetensors")
    told = run("eval", str(model), "--output", str(tmp_path / "carried"), "--workers=0")
    assert "are moved by" in told
    assert read(tmp_path / "carried", "gap") == after
    assert "transform: not with val" in run("eval", str(model), "--datasets=[val]", code=2)
    assert "is not there" in run("eval", str(export), "--transform", str(tmp_path / "none.safetensors"), code=3)
