import re
from dataclasses import asdict
from pathlib import Path

import pytest

from gapless.config import AugmentationConfig, Config, config_hash, flatten, load_config, load_tree, with_changes
from gapless.config.rules import check_config
from gapless.decode.captions.config import CaptionConfig, check_caption_config
from gapless.errors import ConfigError
from gapless.train.clip import build_objective

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name not in ("sweeps", "caption"))
CAPTION_RECIPES = sorted((ROOT / "configs" / "caption").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=[str(p.relative_to(ROOT)) for p in RECIPES])
def test_every_recipe_parses(path):
    config = load_config(path)
    check_config(config)
    build_objective(config)


@pytest.mark.parametrize("path", CAPTION_RECIPES, ids=[path.stem for path in CAPTION_RECIPES])
def test_every_recipe_of_captioners_parses_alone_or_over_a_base(path):
    for base in ("emoji", "coco"):
        check_caption_config(load_tree(CaptionConfig, ROOT / f"configs/caption/{base}.yaml", path))


def test_the_papers_recipe():
    config = load_config(ROOT / "configs/coco/cuaxu.yaml")
    assert build_objective(config).weights == {"clip": 1, "uniform": 1, "align": 1, "cross_uniform": 1}
    assert (config.optim.lr, config.optim.betas, config.optim.weight_decay) == (1e-6, (0.9, 0.99), 0.1)
    assert (config.data.batch_size, config.train.epochs, config.model.temperature) == (64, 9, 0.01)
    assert config.data.augmentation is None
    assert config.optim.schedule == "constant"


def test_overlays_are_laid_over_each_other(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nloss: {preset: cua, terms: {align: 2}}\n")
    (tmp_path / "b.yaml").write_text("loss: {terms: {uniform: 0.5}}\n")
    config = load_config(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert config.seed == 1
    assert build_objective(config).weights == {"clip": 1.0, "uniform": 0.5, "align": 2.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.batch_size", 1),
        ("data.captions", "second"),
        ("data.val_captions", "random"),
        ("data.val_fraction", 1.0),
        ("data.epoch_size", 0),
        ("model.temperature", 0.0),
        ("model.name", "custom"),
        ("optim.lr", -1.0),
        ("optim.betas", (0.9, 1.0)),
        ("optim.ema_decay", 1.0),
        ("train.epochs", 0),
        ("checkpoint.keep_last", 0),
        ("tracking.to", ["comet"]),
        ("loss.uniform_t", -2.0),
        ("loss.terms", {"clip": float("nan")}),
        ("optim.lr", float("inf")),
        ("optim.eps", 0.0),
        ("optim.weight_decay", -1.0),
        ("model.lock_image_unlocked_groups", -1),
        ("data.csv_separator", "ab"),
        ("data.workers", -1),
        ("data.augmentation", AugmentationConfig(scale=(-1.0, 0.0))),
        ("data.augmentation", AugmentationConfig(scale=(2.0, 3.0))),
        ("data.augmentation", AugmentationConfig(scale=(0.9, 0.2))),
        ("data.augmentation", AugmentationConfig(ratio=(0.0, 0.0))),
        ("data.augmentation", AugmentationConfig(color_jitter=(9.0, 9.0, 9.0, 9.0))),
        ("data.augmentation", AugmentationConfig(gray_scale_prob=5.0)),
        ("data.augmentation", AugmentationConfig(re_prob=5.0)),
    ],
)
def test_values_that_cannot_work_are_named(key, value):
    part, name = key.split(".")
    with pytest.raises(ConfigError, match=r"^(model.architecture|" + re.escape(key) + ")"):
        check_config(with_changes(Config(), **{part: {name: value}}))


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        (
            "loss",
            {"terms": {"clip": 1.0, "align": {"from": 0.0, "to": 1.0, "start": 0.5, "end": 0.2}}},
            "loss.terms: {'clip': 1.0, 'align': {'from': 0.0, 'to': 1.0, 'start': 0.5, 'end': 0.2}} does not work, "
            "it must be weights or schedules: align needs one that ends after its start (start 0.5, end 0.2)",
        ),
        (
            "model",
            {"temperature": {"from": 0.1, "to": 0.2, "start": 1.0}, "learnable_temperature": False},
            "model.temperature: {'from': 0.1, 'to': 0.2, 'start': 1.0} does not work, "
            "it must be a schedule that ends after its start (start 1, end 1)",
        ),
        (
            "model",
            {"temperature": {"from": -1.0, "to": 0.2}, "learnable_temperature": False},
            "model.temperature: {'from': -1.0, 'to': 0.2} does not work, it must be positive at both ends",
        ),
        (
            "model",
            {"name": "custom"},
            "model.architecture: None does not work, it must be open_clip's model_cfg, since model.name is custom",
        ),
        (
            "model",
            {"architecture": {"embed_dim": 8}},
            "model.architecture: {'embed_dim': 8} does not work, "
            "it must be null, since model.name is ViT-B-32-quickgelu and not custom",
        ),
    ],
)
def test_a_mapping_that_cannot_work_is_shown_with_its_fault(part, changes, line):
    with pytest.raises(ConfigError) as caught:
        check_config(with_changes(Config(), **{part: changes}))
    assert str(caught.value) == line


def test_a_schedule_may_start_at_a_step_and_end_at_a_share_of_the_run():
    ramp = {"from": 0.1, "to": 0.2, "start": 20.0, "end": 0.5}
    check_config(with_changes(Config(), model={"temperature": ramp, "learnable_temperature": False}))


def test_sources_need_a_path_and_names_are_folders():
    with pytest.raises(ConfigError, match=r"data.path.*source coco"):
        check_config(with_changes(Config(), data={"source": "coco"}))
    with pytest.raises(ConfigError, match="name"):
        check_config(with_changes(Config(), name="a/b"))
    for name in (".", "..", "..."):
        with pytest.raises(ConfigError, match="name"):
            check_config(with_changes(Config(), name=name))
    for seed in (-1, 10**23):
        with pytest.raises(ConfigError, match="seed"):
            check_config(with_changes(Config(), seed=seed))
    check_config(Config())


def test_weights_that_are_all_zero_train_nothing():
    for terms in ({"clip": 0.0}, {"clip": {"from": 0.0, "to": 0.0}}):
        with pytest.raises(ConfigError, match=r"^loss.terms: the weights of clip are all 0"):
            build_objective(with_changes(Config(), loss={"terms": terms}))
    build_objective(with_changes(Config(), loss={"terms": {"clip": {"from": 0.0, "to": 1.0}}}))
    build_objective(with_changes(Config(), loss={"terms": {"clip": 0.0, "align": 1.0}}))


def test_the_hash_ignores_where_a_run_lies():
    config = Config()
    assert config_hash(config) == config_hash(with_changes(config, name="other", output="elsewhere"))
    assert config_hash(config) != config_hash(with_changes(config, seed=1))


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
    assert "optim.lr" in flatten(asdict(Config()))
