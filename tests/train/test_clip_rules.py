"""The objective, what may change, what is trained, and exports of checkpoints."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gapless.config import Config, ModelConfig, with_changes
from gapless.engine.checkpoint import Progress, write_state
from gapless.engine.processes import Processes
from gapless.errors import ConfigError, DataError
from gapless.models import build_model, save_export
from gapless.train import clip as room
from gapless.train.clip import build_objective, export_checkpoint, make_trainable, run_training
from tests.runs import TINY


def test_the_objective_is_the_preset_with_the_terms_over_it():
    loss = {"preset": "cua", "terms": {"align": 0.25, "cross_uniform": {"from": 3.0, "to": 0.0}}}
    loss |= {"uniform_t": 3.0, "align_alpha": 1.5, "hardness": 0.5, "implementation": "tiled"}
    objective = build_objective(with_changes(Config(), loss=loss))
    assert objective.weights == {"clip": 1.0, "uniform": 1.0, "align": 0.25, "cross_uniform": 3.0}
    assert (objective.knobs.t, objective.knobs.alpha, objective.knobs.hardness) == (3.0, 1.5, 0.5)
    assert objective.implementation == "tiled"
    assert isinstance(objective.team, Processes)


@pytest.mark.parametrize(
    ("terms", "works"),
    [
        ({"clip": 0.0, "align": 0.0}, False),
        ({"clip": 0.0, "align": {"from": 0.0, "to": 0.0}}, False),
        ({"clip": 0.0, "align": {"from": 0.0, "to": 1.0}}, True),
        ({"clip": 0.0, "align": {"from": 1.0, "to": 0.0}}, True),
        ({"clip": 0.0, "align": -1.0}, True),
    ],
)
def test_weights_that_are_all_zero_train_nothing(terms, works):
    config = with_changes(Config(), loss={"preset": "clip", "terms": terms})
    if works:
        build_objective(config)
        return
    with pytest.raises(ConfigError) as error:
        build_objective(config)
    assert str(error.value) == "loss.terms: the weights of clip, align are all 0, so that nothing would be trained"


def test_without_any_term_the_error_is_the_objectives():
    with pytest.raises(ConfigError, match=r"loss\.terms: no term is set"):
        build_objective(with_changes(Config(), loss={"preset": "none", "terms": {}}))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_is_carried_out_with_what_may_change(monkeypatch, streamed):
    carried = []

    def carry(*arguments):
        carried.append(arguments)
        return Path("the folder")

    monkeypatch.setattr(room, "carry_out", carry)
    data = {"source": "shards", "path": "https://x/{0..3}.tar", "val_path": "/v"} if streamed else {}
    config = with_changes(Config(), data=data)
    assert run_training(config, True, "older") == Path("the folder")
    ((same, build, free, fresh, resume),) = carried
    assert same is config
    assert build.func is room.build_parts
    assert build.args[0] is config
    assert build.args[1].weights == build_objective(config).weights
    expected = ["name", "output", "tracking.", "checkpoint.", "train.timeout", "data.timeout"]
    assert list(free) == expected + ["data.workers"] * (not streamed)
    assert (fresh, resume) == (True, "older")
    run_training(config)
    assert carried[-1][3:] == (False, "latest")
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        run_training(with_changes(Config(), optim={"lr": -1.0}))
    assert len(carried) == 2


def alone(world=1, device="cpu"):
    return SimpleNamespace(num_processes=world, device=torch.device(device))


@pytest.mark.parametrize(("preset", "learns"), [("clip", True), ("none", False)])
def test_a_temperature_that_no_term_uses_is_frozen(preset, learns):
    config = with_changes(
        Config(), loss={"preset": preset, "terms": {"align": 1.0}}, model={"name": "custom", "architecture": TINY}
    )
    model, _ = build_model(config.model)
    make_trainable(model, build_objective(config), config, alone())
    assert model.clip.logit_scale.requires_grad is learns


def test_a_bias_that_no_term_uses_is_frozen():
    siglip = with_changes(Config(), loss={"preset": "siglip"}, model={"name": "custom", "architecture": TINY})
    for config, learns in ((siglip, True), (with_changes(siglip, loss={"preset": "clip"}), False)):
        model, _ = build_model(config.model, initial_bias=-10.0)
        make_trainable(model, build_objective(config), config, alone())
        assert model.clip.logit_bias.requires_grad is learns


def test_nothing_left_to_learn_is_refused():
    model = {"name": "custom", "architecture": TINY, "lock_image": True, "lock_text": True}
    config = with_changes(Config(), model=model, loss={"preset": "none", "terms": {"align": 1.0}})
    built, _ = build_model(config.model)
    with pytest.raises(ConfigError) as error:
        make_trainable(built, build_objective(config), config, alone())
    assert str(error.value) == (
        "model.lock_image, model.lock_text: nothing is left to learn, both towers are locked and the temperature "
        "is fixed or in no term; unlock a tower or some of its groups"
    )


RESNET = TINY | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}


@pytest.mark.parametrize(
    ("batch", "micro", "world", "device", "refused"),
    [
        (16, None, 1, "cpu", None),
        (16, 16, 1, "cpu", None),
        (16, 15, 1, "cpu", "train.micro_batch_size: 15 does not work with batch normalisation (visual.bn1), whose"),
        (17, 8, 2, "cuda", "train.micro_batch_size: 8 does not work"),
        (17, 9, 2, "cuda", None),
        (16, None, 2, "cpu", "model.name: batch normalisation (visual.bn1) takes its statistics from each process's"),
    ],
)
def test_statistics_of_a_batch_are_those_of_the_whole(monkeypatch, caplog, batch, micro, world, device, refused):
    config = with_changes(
        Config(),
        model={"name": "custom", "architecture": RESNET},
        data={"batch_size": batch},
        train={"micro_batch_size": micro},
    )
    model, _ = build_model(config.model)
    synchronised = []
    monkeypatch.setattr(room, "synchronise_batch_norms", synchronised.append)
    caplog.set_level("INFO", "gapless")
    if refused:
        with pytest.raises(ConfigError) as error:
            make_trainable(model, build_objective(config), config, alone(world, device))
        assert str(error.value).startswith(refused)
        assert synchronised == []
        return
    make_trainable(model, build_objective(config), config, alone(world, device))
    assert synchronised == ([model] if world > 1 else [])
    assert ("batch normalisation is synchronised over 2 processes" in caplog.text) is (world > 1)


def test_a_checkpoint_is_exported_by_name(tmp_path):
    run = tmp_path / "run"
    for step, seed in ((1, 4), (2, 5)):
        place = run / "checkpoints" / f"step_0000000{step}"
        save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=seed), place)
        write_state(place, Progress(step=step))
    (run / "checkpoints" / "best").symlink_to("step_00000001")
    (run / "checkpoints" / "lost").symlink_to("nowhere")
    for name, step in (("best", 1), ("latest", 2), ("step_00000001", 1)):
        assert export_checkpoint(run, name, tmp_path / name) == run / "checkpoints" / f"step_0000000{step}"
        one, other = (
            load_file(p / "open_clip_model.safetensors")
            for p in (tmp_path / name, run / "checkpoints" / f"step_0000000{step}")
        )
        assert all(torch.equal(one[n], other[n]) for n in one)
    for place, there in ((run, "best, step_00000001, step_00000002"), (tmp_path / "nowhere", "none")):
        with pytest.raises(DataError) as error:
            export_checkpoint(place, "step_9", tmp_path / "x")
        assert str(error.value) == f"{place} has no checkpoint 'step_9' (found: {there})"
