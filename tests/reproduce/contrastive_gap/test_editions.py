"""Members to configurations: seed, objective and dimension are really those that a run is trained with."""

from gapless.config import EvalPlan, config_file, load_config
from gapless.reproduce.contrastive_gap.editions import DIMENSIONS, SEEDS, coco_edition, emoji_edition

TASKS = ["zero_shot", "retrieval", "gap", "arithmetic"]


def settings_of(members):
    """By name: output, objective, dimension and seed of the configuration; labels say the same."""
    for member in members:
        c = member.config
        assert member.labels == {"objective": c.loss.preset, "dimension": c.model.embed_dim, "seed": c.seed}
        assert member.name == f"{c.loss.preset}-d{c.model.embed_dim}-seed{c.seed}"
    return [(m.config.output, m.config.loss.preset, m.config.model.embed_dim, m.config.seed) for m in members]


def test_each_seed_of_the_emoji_grid_is_fine_tuned_from_a_start_of_its_own(tmp_path):
    grid = emoji_edition(tmp_path, SEEDS, DIMENSIONS, quick=False)
    assert (SEEDS, DIMENSIONS) == ((42, 24, 44), (32, 64, 128))
    assert settings_of(grid.members) == [
        (str(tmp_path), objective, dimension, seed)
        for dimension in (32, 64, 128)
        for seed in (42, 24, 44)
        for objective in ("clip", "cua", "cuaxu")
    ]
    assert [(start.name, start.output, start.seed) for start in grid.starts] == [
        (f"pretrain-seed{seed}", str(tmp_path), seed) for seed in SEEDS
    ]
    tune = load_config(config_file("emoji/finetune.yaml"))
    for member in grid.members:
        assert member.config.model.name == f"local-dir:{tmp_path}/pretrain-seed{member.config.seed}/export"
        assert (member.config.train.epochs, member.config.optim) == (6, tune.optim)
        assert member.config.model.temperature == 0.01
        assert member.plan == EvalPlan(["emoji"], TASKS, split="test", captions="first", workers=0)
    assert (grid.name, grid.zero_shot) == ("emoji", ("emoji_group", "emoji_gender", "emoji_skin_tone"))
    twins = [(m.name, m.config.output, m.config.model.temperature, m.labels, m.plan) for m in grid.identical]
    assert twins == [(f"identical-t{t}", str(tmp_path), t, {"temperature": str(t)}, None) for t in (0.07, 0.01)]
    assert {(m.config.model.towers, m.config.train.epochs, m.config.seed) for m in grid.identical} == {
        ("image-image", 100, 2)
    }
    (three,) = grid.three_d
    assert (three.name, three.config.output, three.config.train.epochs, three.labels) == (
        "three-d",
        str(tmp_path),
        300,
        {},
    )
    assert three.config.model.architecture["embed_dim"] == 3
    assert three.config.eval.keep_embeddings[-1] == 300
    assert grid.all_members() == [*grid.identical, *grid.three_d, *grid.members]


def test_the_quick_grid_is_shorter(tmp_path):
    grid = emoji_edition(tmp_path, (7,), [16], quick=True)
    assert [s[1:] for s in settings_of(grid.members)] == [(o, 16, 7) for o in ("clip", "cua", "cuaxu")]
    assert {m.config.train.epochs for m in grid.members} == {3}
    assert {m.config.train.epochs for m in grid.identical} == {20}
    assert grid.three_d[0].config.train.epochs == 50
    assert grid.three_d[0].config.eval.keep_embeddings == [0, 1, 3, 6, 12, 25, 37, 50]


def test_the_coco_grid_is_the_papers(tmp_path):
    grid = coco_edition(tmp_path, (24,), (64,), "/data/coco", "/data/{dataset}")
    assert [s[1:] for s in settings_of(grid.members)] == [(o, 64, 24) for o in ("clip", "cua", "cuaxu")]
    sets = ("cifar10", "cifar100", "dtd", "caltech101", "imagenet1k")
    assert sorted(grid.zero_shot) == sorted(sets)
    assert (grid.name, grid.starts) == ("coco", [])
    for member in grid.members:
        config = member.config
        assert (config.data.source, config.data.path, config.output) == ("coco", "/data/coco", str(tmp_path))
        assert (config.optim.lr, config.train.epochs, config.model.temperature) == (1e-6, 9, 0.01)
        assert member.plan == EvalPlan(
            ["pairs", *grid.zero_shot, "simat"],
            TASKS,
            root="/data/{dataset}",
            data=config.data,
            captions="first",
            workers=8,
        )
    assert [(m.config.data.path, m.config.model.temperature) for m in grid.identical] == [
        *(("/data/coco", 0.07), ("/data/coco", 0.01))
    ]
    assert {m.config.train.epochs for m in grid.identical} == {1200}
    assert [(m.name, m.config.data.path) for m in grid.three_d] == [("three-d", "/data/coco")]


def test_without_a_root_there_are_pairs_alone_and_the_usual_folder(tmp_path):
    grid = coco_edition(tmp_path, (42,), (32,), None, None)
    assert grid.members[0].plan.datasets == ["pairs"]
    assert grid.members[0].plan.root is None
    assert {m.config.data.path for m in grid.all_members()} == {"data/coco"}
