"""What may be different when a run continues."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from gapless.config import OptimConfig, TrainConfig
from gapless.engine.changes import anywhere, bound_to_the_end, changed_keys, refuse_other_data, tree_of
from gapless.engine.checkpoint import Progress
from gapless.errors import ConfigError, DataError


@dataclass
class Data:
    path: str | None = None
    val_path: str | None = None
    karpathy: str | None = None


@dataclass
class Model:
    name: str = "ViT-B-32"
    pretrained: str | None = None


@dataclass
class Loss:
    terms: dict[str, float | dict[str, float]] = field(default_factory=dict)


@dataclass
class Run:
    name: str = "run"
    output: str = "runs"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(schedule="constant", betas=(0.1, 0.2)))
    train: TrainConfig = field(default_factory=TrainConfig)


def begun(folder, **parts):
    """A run's folder, with the configuration that it began with."""
    (folder / "config.yaml").write_text(yaml.safe_dump(tree_of(Run(**parts))))
    return folder


def test_a_configuration_is_as_yaml_gives_it_back():
    tree = tree_of(Run(loss=Loss({"a": {"from": 1.0}})))
    assert tree["optim"]["betas"] == [0.1, 0.2]
    assert tree["loss"] == {"terms": {"a": {"from": 1.0}}}
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree


def test_changed_keys_are_the_places_of_data_and_the_length(tmp_path):
    begun(tmp_path, data=Data(path="/a"))
    assert changed_keys(tmp_path, Run(data=Data(path="/a")), ()) == []
    changed = Run(data=Data(path="/b", karpathy="/k"), train=TrainConfig(epochs=10))
    assert changed_keys(tmp_path, changed, ()) == ["data.karpathy", "data.path", "train.epochs"]
    assert changed_keys(tmp_path, Run(data=Data("/a"), train=TrainConfig(timeout=1.0)), ("train.timeout",)) == []
    assert changed_keys(tmp_path, Run(data=Data("/a"), train=TrainConfig(timeout=1.0)), ("name", "train.")) == []
    with pytest.raises(ConfigError) as error:
        changed_keys(tmp_path, Run(data=Data("/b"), model=Model("RN50"), name="other"), ("name",))
    assert str(error.value) == (
        f"{tmp_path} began with another configuration: data.path was '/a', is '/b'; "
        "model.name was 'ViT-B-32', is 'RN50'. Use fresh=true or name=ANOTHER"
    )


def test_the_name_and_relative_places_of_before_are_filled_in(tmp_path):
    begun(tmp_path, name="x-{hash}", data=Data(path="images"))
    assert changed_keys(tmp_path, Run(name="x-1", data=Data(os.path.abspath("images"))), ()) == []


def test_keys_that_an_older_run_did_not_know_have_their_defaults(tmp_path):
    tree = tree_of(Run())
    del tree["train"]["timeout"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert changed_keys(tmp_path, Run(), ()) == []
    (tmp_path / "config.yaml").write_text("optim: {lrr: 1}")
    with pytest.raises(DataError, match=r"config\.yaml cannot be read \(.*lrr.*\); fresh=true starts anew beside it"):
        changed_keys(tmp_path, Run(), ())
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"cannot be read"):
        changed_keys(tmp_path, Run(), ())


@pytest.mark.parametrize(
    ("schedule", "terms", "epochs", "refused"),
    [
        ("constant", {}, 10, ""),
        ("constant", {}, 8, "began with 9, not 8, and a run can only be made longer"),
        ("cosine", {}, 10, "began with 9, not 10, and optim.schedule=cosine depends on the number of steps"),
        ("constant", {"a": {"from": 0.0, "to": 1.0, "start": 5.0, "end": 9.0}}, 10, ""),
        ("constant", {"a": {"from": 0.0, "to": 1.0, "start": 5.0}}, 10, "and loss.terms.a depends on the number"),
        ("constant", {"a": {"from": 0.0, "to": 1.0, "end": 5.0}}, 10, "and loss.terms.a depends on the number"),
        ("constant", {"a": {"from": 0.0, "to": 1.0, "start": 1.0, "end": 5.0}}, 10, "loss.terms.a depends"),
        ("constant", {"a": {"from": 0.0, "to": 1.0, "start": 2.0, "end": 1.0}}, 10, "loss.terms.a depends"),
        ("constant", {"a": 1.0}, 10, ""),
    ],
)
def test_a_run_is_made_longer_only_if_its_steps_stay_the_same(tmp_path, schedule, terms, epochs, refused):
    parts = {"optim": OptimConfig(schedule=schedule), "loss": Loss(terms)}
    begun(tmp_path, **parts)
    longer = Run(**parts, train=TrainConfig(epochs=epochs))
    if refused:
        with pytest.raises(ConfigError, match=f"train.epochs: .*{refused}"):
            changed_keys(tmp_path, longer, ())
    else:
        assert changed_keys(tmp_path, longer, ()) == ["train.epochs"]


def test_which_schedule_is_bound_to_the_end():
    assert bound_to_the_end({"optim.schedule": "linear"}) == "optim.schedule=linear"
    assert bound_to_the_end({"optim.schedule": "constant"}) is None
    ramps = {"b.from": 1, "b.start": 2, "b.end": 3, "a.from": 1, "a.start": 2, "a.end": 1}
    assert bound_to_the_end({"optim.schedule": "constant", **ramps}) == "a"


def test_other_data_are_refused_wherever_they_lie(tmp_path):
    progress = Progress(data="one")
    refuse_other_data(tmp_path, ["data.path", "train.epochs"], "one", progress)
    for place in ("data.path", "data.val_path", "data.karpathy", "features.path", "eval.root"):
        with pytest.raises(ConfigError) as error:
            refuse_other_data(tmp_path, ["train.epochs", place], "other", progress)
        assert str(error.value) == f"{place}: {tmp_path} began with other data. Use fresh=true or name=ANOTHER"
    with pytest.raises(DataError) as error:
        refuse_other_data(tmp_path, ["train.epochs"], "other", progress)
    output = f"data: pairs were added, removed or changed since {tmp_path} began. Use fresh=true or name=ANOTHER"
    assert str(error.value) == output
    assert progress.data == "one"
    unknown = Progress()  # of a run that did not note it
    with pytest.raises(ConfigError):
        refuse_other_data(tmp_path, ["data.path"], "one", unknown)
    refuse_other_data(tmp_path, [], "one", unknown)
    assert unknown.data == "one"


def test_places_are_absolute_and_names_of_models_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Path(os.path.realpath(tmp_path))
    (tmp_path / "export").mkdir()
    (tmp_path / "weights.pt").touch()
    data = Data(path="a::https://x/{0..3}.tar::pipe:cat b.tar", val_path=None, karpathy="k.json")
    found = anywhere(Run(name="x-{hash}", data=data, model=Model("local-dir:export", "weights.pt")), "x-1")
    assert found.name == "x-1"
    assert found.data.path == f"{here}/a::https://x/{{0..3}}.tar::pipe:cat b.tar"
    assert (found.data.val_path, found.data.karpathy) == (None, f"{here}/k.json")
    assert (found.model.name, found.model.pretrained) == (f"local-dir:{here}/export", f"{here}/weights.pt")
    kept = anywhere(Run(model=Model("ViT-B-32", "openai"), output="runs"), "y")
    assert (kept.model.name, kept.model.pretrained, kept.output) == ("ViT-B-32", "openai", "runs")
