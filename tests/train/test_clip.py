"""From a configuration to the parts of a run: every value reaches its place, and no place gets another's."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from gapless.config import Config, ModelConfig, with_changes
from gapless.data import Place
from gapless.engine.checkpoint import Progress
from gapless.engine.optim import build_optimizer
from gapless.eval.embeddings import Embeddings, load_pairs
from gapless.models import build_model, load_export, save_export
from gapless.signals import StopFlag
from gapless.train import clip as room
from gapless.train.clip import build_objective, build_parts
from tests.runs import TINY

X, Y = torch.eye(16)[:3], torch.eye(16)[3:6]


class Train:
    """Training batches, as far as the parts look at them."""

    num_samples, steps_per_epoch = 70, 7

    def fingerprint(self):
        return "train"


class Val:
    num_samples = 3

    def fingerprint(self):
        return "val"

    def key(self, position):
        return f"key {position}"


class Pairs:
    """An evaluation on pairs whose features are there already."""

    def __init__(self):
        self.data = Val()
        self.features = Embeddings(X, Y, torch.tensor([4, 0, 7]), keys=["key 4", "key 0", "key 7"])


ODD = {
    "seed": 8,
    "data": {"batch_size": 10, "workers": 3, "max_bad_fraction": 0.25},
    "model": {"name": "custom", "architecture": TINY, "temperature": 0.02},
    "loss": {"preset": "cua", "uniform_t": 3.0, "align_alpha": 1.5, "hardness": 0.5, "duplicates": "mask"},
    "optim": {"lr": 0.03, "betas": (0.6, 0.7), "eps": 1e-5, "weight_decay": 0.4, "ema_decay": 0.8},
    "train": {"epochs": 4, "micro_batch_size": 5},
    "eval": {"every_epochs": 2, "keep_embeddings": [1, 3], "batch_size": 33},
    "checkpoint": {"keep_last": 6},
}


class Built:
    """Parts, and what their builders were called with."""

    def __init__(self, monkeypatch, folder, checkpoint=None, **changes):
        self.calls, self.pairs = {}, Pairs()
        self.folder, self.progress, self.stop = folder, Progress(step=14), StopFlag()
        monkeypatch.setattr(room, "build_train_data", partial(self._note, "train", Train()))
        monkeypatch.setattr(room, "build_pair_evaluation", partial(self._note, "pairs", self.pairs))
        tree = {part: {**ODD.get(part, {}), **changes.get(part, {})} for part in (*ODD, *changes) if part != "seed"}
        self.config = with_changes(Config(seed=8), **tree)
        self.accelerator = Accelerator(cpu=True)
        self.objective = build_objective(self.config)
        self.parts = build_parts(
            self.config, self.objective, self.accelerator, folder, checkpoint, self.progress, self.stop
        )
        self.clip = self.parts.model

    def _note(self, name, result, *arguments):
        self.calls[name] = arguments
        return result


@pytest.fixture
def built(monkeypatch, tmp_path):
    return partial(Built, monkeypatch, tmp_path)


def test_data_and_evaluations_are_of_the_model_and_of_this_process(built, monkeypatch):
    monkeypatch.setattr(Place, "here", classmethod(lambda cls: cls(2, 5)))
    made = built()
    data, seed, preprocess, tokenize, place, towers = made.calls["train"]
    assert data is made.config.data
    assert (seed, towers) == (8, "image-text")
    assert preprocess is made.clip.preprocess
    assert (place.rank, place.world) == (2, 5)
    assert tokenize.trim is made.clip.trims_captions is True
    assert tokenize(["a dog", "two red cats"]).shape == (2, 5)
    config, model, tokenizer = made.calls["pairs"]
    assert config is made.config
    assert model is made.clip
    assert tokenizer is tokenize.tokenizer
    assert made.parts.evaluations == [made.pairs]
    assert made.parts.fingerprint == "train val"


def test_the_loop_gets_what_the_configuration_says(built):
    made = built()
    parts = made.parts
    assert parts.config is made.config
    assert parts.accelerator is made.accelerator
    assert parts.data.steps_per_epoch == 7
    assert parts.total == 28
    assert parts.evaluate_every == 2
    assert parts.kept_epochs == [1, 3]
    assert parts.max_bad_fraction == 0.25
    assert parts.least_rows == 2
    assert parts.progress is made.progress
    assert parts.stop is made.stop
    assert parts.tracker.path == made.folder / "metrics.jsonl"
    assert parts.checkpoints.folder == made.folder / "checkpoints"
    assert parts.checkpoints.keep_last == 6
    assert parts.checkpoints.weights is made.clip.clip
    assert parts.average.decay == 0.8
    assert "logit_scale" in parts.average.averages  # named as in the checkpoint, not as in what wraps it
    groups = parts.optimizer.param_groups
    assert {(g["lr"], g["betas"], g["eps"]) for g in groups} == {(0.03, (0.6, 0.7), 1e-5)}
    assert sorted(g["weight_decay"] for g in groups) == [0.0, 0.4]


def test_the_step_gets_its_objective_parts_and_masks(built):
    step = built().parts.step
    assert step.micro_batch_size == 5
    assert step.mask_duplicates is True
    assert built(loss={"duplicates": "repel"}).parts.step.mask_duplicates is False
    made = built()
    assert made.parts.step.model is made.parts.model
    assert made.parts.step.objective is made.objective
    assert made.parts.step.accelerator is made.accelerator


def test_schedules_run_over_all_steps(built):
    loss = {"terms": {"uniform": {"from": 1.0, "to": 28.0}, "align": 0.5}}
    model = {"temperature": {"from": 0.01, "to": 0.28}, "learnable_temperature": False}
    made = built(loss=loss, model=model)
    for step in (0, 5, 27):
        assert made.parts.step.schedule(step) == {"uniform": pytest.approx(1.0 + step)}
        assert made.clip.clip.logit_scale.exp().item() == pytest.approx(1 / (0.01 + 0.01 * step), rel=1e-5)


def test_a_new_model_is_the_seeds_and_a_resumed_one_the_checkpoints(built, tmp_path):
    config = ModelConfig(name="custom", architecture=TINY)
    expected, tokenizer = build_model(config, 8)
    made = built()
    assert torch.equal(made.clip.clip.visual.proj, expected.clip.visual.proj)
    assert made.clip.clip.logit_scale.exp().item() == pytest.approx(50.0)
    other, _ = build_model(config, 9)
    save_export(other, tokenizer, tmp_path / "step")
    save_file({}, tmp_path / "step" / "optimizer.safetensors")
    save_file({"cpu": torch.get_rng_state()}, tmp_path / "step" / "rng_0.safetensors")
    made = built(checkpoint=tmp_path / "step")
    assert torch.equal(made.clip.clip.visual.proj, other.clip.visual.proj)


def test_a_bias_begins_where_its_loss_says(built):
    made = built(loss={"preset": "siglip", "hardness": 0.0})
    assert made.clip.clip.logit_bias.item() == -10.0
    assert made.clip.clip.logit_bias.requires_grad


def test_checkpoints_are_written_as_exports_of_the_model(built, tmp_path):
    made = built()
    state = {n: t + 1 for n, t in made.clip.clip.state_dict().items()}
    made.parts.checkpoints.write_model(tmp_path / "out", state)
    loaded, tokenizer = load_export(tmp_path / "out")
    assert torch.equal(loaded.clip.visual.proj, state["visual.proj"])
    assert tokenizer(["a dog"]).shape == (1, 16)


def test_the_embeddings_that_are_kept_are_those_of_the_evaluation(built, monkeypatch):
    made = built()
    made.parts.keep_embeddings(3)
    features = load_pairs(made.folder / "embeddings" / "epoch_00003.safetensors")
    assert torch.equal(features.image, X)
    assert torch.equal(features.text, Y)
    assert features.keys == ["key 4", "key 0", "key 7"]
    made.pairs.features = None
    made.parts.keep_embeddings(4)
    monkeypatch.setattr(room, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    made.pairs.features = features
    made.parts.keep_embeddings(5)
    assert [p.name for p in (made.folder / "embeddings").iterdir()] == ["epoch_00003.safetensors"]


def test_further_data_sets_are_evaluated_as_the_run_says(built):
    made = built(eval={"datasets": ["cifar10", "simat"], "root": "/data/{dataset}"})
    first, second = made.parts.evaluations
    assert first is made.pairs
    plan = second.plan
    assert (plan.datasets, plan.root) == (["cifar10", "simat"], "/data/{dataset}")
    assert (plan.batch_size, plan.workers, plan.max_bad_fraction) == (33, 3, 0.25)
    assert second.tokenizer is made.calls["pairs"][2]


@pytest.mark.parametrize(("scale", "clamped"), [(9.0, math.log(100)), (-2.0, 0.0), (1.5, 1.5)])
def test_the_temperature_stays_in_its_range_after_a_step(built, scale, clamped):
    made = built()
    with made.parts.around_step():
        made.clip.clip.logit_scale.data.fill_(scale)  # as the optimiser would
    assert made.clip.clip.logit_scale.item() == pytest.approx(clamped)


def test_a_temperature_that_is_fixed_is_left_alone(built):
    made = built(model={"temperature": 0.001, "learnable_temperature": False})
    with made.parts.around_step():
        pass
    assert made.clip.clip.logit_scale.exp().item() == pytest.approx(1000.0, rel=1e-4)


@pytest.mark.parametrize(("form", "inside"), [("softplus", 50.0), ("exp", math.log(50.0))])
def test_the_temperature_is_stepped_in_its_form(built, form, inside):
    made = built(model={"temperature_form": form})
    scale = made.clip.clip.logit_scale
    scale.grad = torch.zeros_like(scale)
    with made.parts.around_step():
        assert scale.item() == pytest.approx(inside, rel=1e-4)
    assert scale.exp().item() == pytest.approx(50.0, rel=1e-4)


def test_towers_are_compiled_if_asked_for_and_keep_their_names(built, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    names = list(built().clip.clip.state_dict())
    assert compiled == []
    made = built(train={"compile": True})
    assert compiled == [made.clip.clip.visual, made.clip.clip.transformer]
    assert list(made.clip.clip.state_dict()) == names


def test_scalars_get_a_dimension_where_parameters_are_sharded(built, monkeypatch):
    assert built().clip.clip.logit_scale.ndim == 0
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "prepare", lambda self, model, optimizer: (model, optimizer))
    assert built().clip.clip.logit_scale.ndim == 1


TWIN = {"towers": "image-image", "architecture": TINY, "name": "custom"}


@pytest.mark.parametrize(("how", "removed"), [("keep", False), ("procrustes", True), ("translate", True)])
def test_the_first_gap_of_a_new_twin_is_removed_on_training_pairs(built, monkeypatch, tmp_path, caplog, how, removed):
    embedded, moved = [], []

    def embed(model, data):
        embedded.append((model, data))
        return Embeddings(X, Y, torch.arange(3), [])

    monkeypatch.setattr(room, "embed_pairs", embed)
    monkeypatch.setattr(room.TwinModel, "remove_gap", lambda model, *arguments: moved.append((model, *arguments)))
    caplog.set_level("INFO", "gapless")
    made = built(model=TWIN | {"initial_gap": how})
    assert made.calls["train"][-1] == "image-image"
    if not removed:
        assert embedded == moved == []
        return
    assert embedded == [(made.clip, made.pairs.data)]
    ((model, x, y, given),) = moved
    assert model is made.clip
    assert (x is X, y is Y, given) == (True, True, how)
    assert f"initial gap removed ({how}, fitted on 3 training pairs)" in caplog.text
    config, model, tokenizer, split = made.calls["pairs"]  # the last call of two
    assert (config.data.train_samples, split) == (4096, "train")
    assert model is made.clip
    assert replace(config, data=made.config.data) == made.config
    built(model=TWIN | {"initial_gap": how}, data={"train_samples": 50})
    assert made.calls["pairs"][0].data.train_samples == 4096
    checkpoint = tmp_path / "step"
    save_export(made.clip, tokenizer, checkpoint)
    save_file({}, checkpoint / "optimizer.safetensors")
    moved.clear()
    built(checkpoint=checkpoint, model=TWIN | {"initial_gap": how})
    assert moved == []  # it was, when the run began


@pytest.mark.parametrize(("samples", "fitted"), [(50, 50), (5000, 4096), (None, 4096)])
def test_the_gap_is_fitted_on_at_most_4096_pairs(built, monkeypatch, samples, fitted):
    monkeypatch.setattr(room, "embed_pairs", lambda model, data: Embeddings(X, Y, torch.arange(3), []))
    monkeypatch.setattr(room.TwinModel, "remove_gap", lambda *_: None)
    made = built(model=TWIN | {"initial_gap": "translate"}, data={"train_samples": samples})
    assert made.calls["pairs"][0].data.train_samples == fitted


def test_the_temperature_has_a_rate_of_its_own(built):
    made = built(optim={"temperature_lr": 0.1})
    (slow,) = [g for g in made.parts.optimizer.param_groups if g["lr_factor"] == 0.1]
    assert [p is made.clip.clip.logit_scale for p in slow["params"]] == [True]
    assert len(build_optimizer(made.clip, made.config.optim).param_groups) == 3
