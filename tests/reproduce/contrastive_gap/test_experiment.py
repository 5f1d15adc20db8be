"""The grid from runs to tables, on models that train in seconds."""

import json
from dataclasses import replace

import pytest

from gapless.config import EvalPlan, load_config, with_changes
from gapless.data import emoji
from gapless.reproduce.contrastive_gap import experiment as contrastive_gap
from gapless.reproduce.contrastive_gap.experiment import DIMENSIONS, SEEDS, Edition, reproduce
from gapless.reproduce.contrastive_gap.published import OBJECTIVES, TABLES
from gapless.reproduce.grid import Member
from tests.data.pictures import picture
from tests.runs import TINY, metrics, run, tiny_config, write_config

TASKS = ["zero_shot", "retrieval", "gap", "arithmetic"]


@pytest.fixture
def few_emoji(monkeypatch):
    """Every sixth family, so that an evaluation takes a second."""
    families = sorted({e.family for e in emoji.all_emoji()})[::6]
    chosen = tuple(e for e in emoji.all_emoji() if e.family in families)
    for module in ("emoji", "labelled"):
        monkeypatch.setattr(f"gapless.data.{module}.all_emoji", lambda: chosen)
    kept = (emoji.emoji_classes, emoji.emoji_edits, emoji.emoji_families)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


@pytest.fixture
def small(tmp_path, monkeypatch, few_emoji):
    """An edition of two seeds at one dimension, one epoch each; call it with a member to make that one fail."""

    def make(runs, *settings):
        base = load_config(write_config(tiny_config(runs), tmp_path / "tiny.yaml"))
        base = with_changes(base, output=str(runs), train={"epochs": 1}, checkpoint={"every_steps": None})
        plan = EvalPlan(["emoji"], TASKS, split="test", captions="first", workers=0)

        def member(objective, seed):
            changes = {"optim": {"lr": 1e30}} if (objective, seed) in broken else {}
            config = with_changes(base, name=f"{objective}-{seed}", seed=seed, loss={"preset": objective}, **changes)
            return Member(config, plan, {"objective": objective, "dimension": 128, "seed": seed})

        twin = with_changes(
            base, name="twin", loss={"preset": "clip"}, model={"towers": "image-image", "initial_gap": "procrustes"}
        )
        three = with_changes(base, name="three-d", model={"architecture": TINY | {"embed_dim": 3}})
        return Edition(
            "emoji",
            [
                member(objective, seed)
                for seed in (sorted({seed for _, seed in broken}) or (42, 24))
                for objective in OBJECTIVES
            ],
            [Member(twin, labels={"temperature": "0.07"})],
            [Member(three)],
            [],
            ("emoji_group", "emoji_skin_tone"),
        )

    broken = set()
    monkeypatch.setattr(contrastive_gap, "emoji_edition", make)
    return broken.add


def test_tables_hold_the_means_over_seeds_beside_the_papers(small, tmp_path):
    output = tmp_path / "cg"
    run("reproduce", "contrastive-gap", "--output", str(output))
    results = json.loads((output / "results.json").read_text())
    assert sorted(results) == sorted(f"{o}-128-{s}" for o in OBJECTIVES for s in (42, 24))
    values = [results[f"cua-128-{s}"]["centroid_distance"] for s in (42, 24)]
    mean, error = sum(values) / 2, abs(values[0] - values[1]) / 2  # std(ddof=1) / sqrt(2) of two values
    printed = (output / "contrastive-gap.md").read_text()
    row = next(line for line in printed.partition("Tables 2 and 9")[2].splitlines() if line.startswith("| cua "))
    assert f"{mean:.3f} ± {error:.3f}" in row.replace("*", "")
    assert "| 0.08 ± 0.02 |" in row
    assert "n = 2 (seeds 24, 42)" in printed
    for table in TABLES:
        assert table.title in printed
    assert "missing" in printed.partition("Table 7")[2].partition("##")[0]  # 32 dimensions were not run
    twin = metrics(output / "runs" / "twin")
    assert f"| {twin[0]['val/centroid_distance']:.3f} |" in printed.partition("Table 1:")[2]
    assert "| Tables 2, 7, 8 and 9 | centroid_distance of cua lower than clip |" in printed
    assert "2 seeds are a first look" in printed
    assert r"\toprule" in (output / "contrastive-gap.tex").read_text()
    assert "Tables 2 and 9" in (output / "report.html").read_text()
    # Again: nothing is trained or scored anew.
    stamps = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*.json")}
    reproduce(output)
    assert {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*.json")} == stamps


def test_a_failed_member_is_named_and_the_rest_is_there(small, tmp_path):
    small(("cuaxu", 24))
    arguments = ("reproduce", "contrastive-gap", "--output", str(tmp_path / "cg"))
    printed = run(*arguments, code=3)
    assert "1 of the grid are missing, first cuaxu-24: " in printed
    assert "(--allow_missing)" in printed
    page = (tmp_path / "cg" / "contrastive-gap.md").read_text()
    assert "| cuaxu-24 | " in page.partition("## Missing")[2]
    assert "cua-128-24" in json.loads((tmp_path / "cg" / "results.json").read_text())
    run(*arguments, "--allow-missing")


def test_bad_arguments_name_their_flag():
    assert "gap is not one of demo, contrastive-gap" in run("reproduce", "gap", code=2)
    assert "edition: cc3m is not one of" in run("reproduce", "contrastive-gap", "--edition=cc3m", code=2)


def test_the_real_editions_have_the_papers_grid(tmp_path):
    emoji = contrastive_gap.emoji_edition(tmp_path, SEEDS, DIMENSIONS, quick=False)
    coco = contrastive_gap.coco_edition(tmp_path, SEEDS, DIMENSIONS, data_path="/data/coco", root="/data/{dataset}")
    for edition in (emoji, coco):
        assert len(edition.members) == 27
        assert len({member.name for member in edition.all_members()}) == 27 + 2 + 1
    config = coco.members[-1].config
    assert (config.data.path, config.seed) == ("/data/coco", 44)
    assert (config.model.embed_dim, config.loss.preset) == (128, "cuaxu")
    assert coco.members[0].plan.datasets == ["pairs", *coco.zero_shot, "simat"]
    assert (config.optim.lr, config.train.epochs, config.model.temperature) == (1e-6, 9, 0.01)
    assert len(contrastive_gap.emoji_edition(tmp_path, SEEDS[:1], [32, 512], quick=True).members) == 6


def write_coco(root):
    """Twelve training and eight validation images in COCO's layout."""
    for split, ids in (("train", range(12)), ("val", range(20, 28))):
        (root / f"{split}2017").mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        for i in ids:
            (root / f"{split}2017" / f"{i:012d}.jpg").write_bytes(picture(kind="JPEG", seed=i))
        tree = {
            "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids],
            "annotations": [
                {"image_id": i, "id": 2 * i + k, "caption": f"text {k} of {i}"} for i in ids for k in (0, 1)
            ],
        }
        (root / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(tree))


def test_the_coco_edition_on_a_small_coco_two_runs_at_a_time(tmp_path, monkeypatch):
    write_coco(tmp_path / "coco")
    real = contrastive_gap.coco_edition

    def small_models(*arguments):
        def smaller(member):
            changes = {
                "data": {"batch_size": 4, "workers": 0, "train_samples": None},
                "model": {"name": "custom", "pretrained": None, "architecture": TINY, "embed_dim": None},
                "train": {"epochs": 1, "log_every": 1},
                "eval": {"keep_embeddings": [0, -1]},
            }
            plan = member.plan and replace(member.plan, workers=0)
            return replace(member, config=with_changes(member.config, **changes), plan=plan)

        grid = real(*arguments)
        parts = {name: [smaller(m) for m in getattr(grid, name)] for name in ("members", "identical", "three_d")}
        return replace(grid, **parts)

    monkeypatch.setattr(contrastive_gap, "coco_edition", small_models)
    place = (f"--data-path={tmp_path / 'coco'}", f"--root={tmp_path}/{{dataset}}", f"--output={tmp_path / 'cg'}")
    settings = ("--edition=coco", "--quick", "--dimensions=[128]", "--jobs=2")
    printed = run("reproduce", "contrastive-gap", *settings, *place, code=3)
    assert "cifar10 was looked for in" in printed
    page = (tmp_path / "cg" / "contrastive-gap.md").read_text()
    assert "clip-d128-seed42 on simat" in page.partition("## Missing")[2]
    assert "n = 1 (seeds 42)" in page
    found = json.loads((tmp_path / "cg" / "results.json").read_text())["cua-128-42"]
    assert found["num_images"] == 8
    assert {"centroid_distance", "image_retrieval_recall@1", "cross_uniformity"} <= set(found)
    assert "epoch 1 of 1" in "".join(log.read_text() for log in (tmp_path / "cg" / "runs").glob("job-*.log"))
