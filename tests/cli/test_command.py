import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from safetensors import SafetensorError

from gapless.cli import VERBS, overview, parse
from gapless.config import Config
from gapless.errors import ConfigError, DataError
from tests.runs import run, tiny_config, write_config


def config_of(*arguments):
    parsed = vars(parse("train", arguments))
    return Config(**{k: v for k, v in parsed.items() if k not in ("config", "fresh", "resume")})


def test_what_wandb_sweeps_pass():
    config = config_of(
        "--data.drop_last=False", "--optim.betas=[0.9, 0.95]", "--model.temperature=None",
        "--loss.terms.uniform=0.5", "--optim.lr=1e-05", "--loss.preset=cua",
    )  # fmt: skip
    assert config.data.drop_last is False
    assert config.optim.betas == (0.9, 0.95)
    assert config.model.temperature is None
    assert config.loss.terms == {"uniform": 0.5}
    assert config.optim.lr == 1e-5
    assert config_of("--loss.terms={'clip': 1, 'align': 2.0}").loss.terms == {"clip": 1.0, "align": 2.0}


def test_later_overlays_and_flags_win(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\ndata: {batch_size: 8}\n")
    (tmp_path / "b.yaml").write_text("data: {batch_size: 16}\n")
    config = config_of(f"--config={tmp_path / 'a.yaml'}", f"--config={tmp_path / 'b.yaml'}", "--data.workers=0")
    assert (config.seed, config.data.batch_size, config.data.workers) == (1, 16, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.lrr=1"], "optim.lrr: unknown key, did you mean optim.lr?"),
        (["--optim.lr=fast"], "optim.lr: "),
        (["--data.workers=2.5"], "data.workers"),
        (["--loss.preset=cuax"], "loss.preset"),
        (["--loss.terms.clip=much"], "loss.terms"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_arguments_are_one_line_that_names_the_key(arguments, message):
    with pytest.raises(ConfigError) as caught:
        parse("train", arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    output = run("train", *arguments, code=2)
    assert output.startswith("gapless: error: ")
    assert output.count("\n") == 1


def test_unknown_keys_of_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {batchsize: 8}\n")
    output = run("train", f"--config={tmp_path / 'a.yaml'}", code=2)
    assert "data.batchsize: unknown key, did you mean data.batch_size?" in output
    (tmp_path / "a.yaml").write_text("dta: {batch_size: 8}\n")
    assert "dta" in run("train", f"--config={tmp_path / 'a.yaml'}", code=2)
    (tmp_path / "a.yaml").write_text("data: [\n")
    output = run("train", f"--config={tmp_path / 'a.yaml'}", code=2)
    assert output.count("\n") == 1


def test_help_has_every_key():
    assert run("--help") == f"{overview()}\n"
    output = run("train", "--help")
    for words in ("--data.batch_size", "Pairs in a global batch", "--loss.terms", "--optim.ema_decay"):
        assert words in output
    assert "did you mean train?" in run("trian", code=2)
    assert "gapless 0." in run("--version")


def test_help_waits_for_no_heavy_import():
    code = (
        "import sys\nfrom gapless.cli import overview\noverview()\nprint([m for m in sys.argv[1:] if m in sys.modules])"
    )
    heavy = ("torch", "open_clip", "accelerate", "matplotlib", "sklearn", "transformers")
    found = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_gap_of_two_files(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(30, 4)))
    output = run("gap", "--images", str(tmp_path / "a.npy"), "--texts", str(tmp_path / "b.npy"), "--json")
    scores = json.loads(output[output.index("{") :])
    assert (scores["num_images"], scores["dimension"], scores["normalised"]) == (30, 4, True)
    assert 0 < scores["centroid_distance"] < 1
    assert scores["text_retrieval_recall@1"] >= 0
    assert "rows normalised to length 1" in output
    np.save(tmp_path / "b.npy", np.zeros((30, 4)))
    output = run("gap", "--images", str(tmp_path / "a.npy"), "--texts", str(tmp_path / "b.npy"), code=3)
    assert output.startswith("gapless: error: ")
    assert "rows of zeros" in output
    assert "Traceback" in run("gap", "--images", "none.npy", "--texts", "none.npy", "--debug", code=3)


def test_doctor_shows_brackets_of_paths(tmp_path, capsys):
    path = str(write_config(tiny_config(tmp_path), tmp_path / "c.yaml"))
    output = run("doctor", "--config", path, "--data.source=folder", "--data.path=/data/[train]/x", code=3)
    assert "/data/[train]/x" in " ".join(output.split())


def test_doctor(tmp_path):
    path = str(write_config(tiny_config(tmp_path), tmp_path / "c.yaml"))
    output = run("doctor", "--config", path)
    for words in ("96 pairs, 6 steps an epoch", "40 pairs", "first batch: 16 images of 32 x 32", "are free"):
        assert words in " ".join(output.split())
    assert not (tmp_path / "tiny").exists()
    output = run("doctor", "--config", path, "--data.source=coco", "--data.path=/nowhere", code=3)
    assert "looked for the folder /nowhere with the images" in " ".join(output.split())
    assert "fails" in output
    run("doctor", "--config", path, "--optim.lr=-1", code=2)
    output = run("doctor", "--config", path, "--model.name=local-dir:/nowhere", "--model.architecture=null", code=3)
    assert "96 pairs, none decoded without the model" in " ".join(output.split())


def test_prepare_says_what_is_wrong(tmp_path):
    assert "source: emojis is not one of" in run("prepare", "emojis", "--output", str(tmp_path / "x"), code=2)
    assert "data.path" in run("prepare", "coco", "--output", str(tmp_path / "x"), code=2)
    assert "resize: 0 does not work" in run(
        "prepare", "emoji", "--resize", "0", "--output", str(tmp_path / "x"), code=2
    )
    printed = run("prepare", "emoji", "--split", "test", "--workers", "0", "--output", str(tmp_path / "shards"))
    assert "567 pairs in 1 shards" in printed


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 30 TiB"), "there is not enough memory (Unable to allocate 30 TiB)"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "there is not enough memory (CUDA out of memory"),
        (SafetensorError("header too large"), "a .safetensors file: header too large"),
        (OSError(28, "No space left on device", "x"), "x: No space left on device"),
        (DataError("a\nb is damaged"), "a b is damaged"),
    ],
)
def test_what_no_code_foresaw_is_one_line_where_a_user_can_act_on_it(error, message, tmp_path):
    def fail(*_):
        raise error

    with mock.patch.dict(VERBS, {"export": VERBS["export"]._replace(run=fail)}):
        said = run("export", str(tmp_path), code=3)
    assert said == f"gapless: error: {said[16:-1]}\n"
    assert message in said


def test_a_bug_shows_its_traceback(tmp_path):
    def fail(*_):
        raise KeyError("a bug")

    with mock.patch.dict(VERBS, {"export": VERBS["export"]._replace(run=fail)}), pytest.raises(KeyError, match="a bug"):
        run("export", str(tmp_path))
