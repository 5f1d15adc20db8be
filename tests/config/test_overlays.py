import pytest

from gapless.cli import parse
from gapless.config import AugmentationConfig, Config, load_config, read_arguments
from gapless.decode.captions.config import CaptionConfig
from gapless.errors import ConfigError
from gapless.models import build_model

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def files(tmp_path, *texts):
    paths = [tmp_path / f"{k}.yaml" for k in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return [f"--config={path}" for path in paths]


def test_a_nested_key_changes_that_key_alone(tmp_path):
    (base,) = files(tmp_path, f"model: {{name: custom, architecture: {ARCHITECTURE}}}")
    for typed, value in (("pool_type=argmax", "argmax"), ("context_length=9", 9), ("ls_init_value=1e-5", 1e-5)):
        for words in ([f"--model.architecture.text_cfg.{typed}"], f"--model.architecture.text_cfg.{typed}".split("=")):
            found = read_arguments(Config, [base, *words]).model.architecture
            key = typed.split("=")[0]
            assert found == ARCHITECTURE | {"text_cfg": ARCHITECTURE["text_cfg"] | {key: value}}
            assert type(found["text_cfg"][key]) is type(value)
    model, _ = build_model(read_arguments(Config, [base, "--model.architecture.text_cfg.pool_type=argmax"]).model, 0)
    assert sum(p.numel() for p in model.parameters()) == 1_616_865  # 63 million if its siblings are dropped
    for verb in ("train", "doctor"):
        parsed = parse(verb, [base, "--model.architecture.text_cfg.layers=2", "--model.architecture.embed_dim=8"])
        expected = ARCHITECTURE | {"text_cfg": ARCHITECTURE["text_cfg"] | {"layers": 2}, "embed_dim": 8}
        assert parsed.model.architecture == expected


def test_files_are_laid_over_each_other_key_by_key(tmp_path):
    both = files(
        tmp_path,
        f"model: {{name: custom, architecture: {ARCHITECTURE}, temperature: {{from: 0.1, to: 1, end: 0.5}}}}\n"
        "loss: {terms: {align: 2, uniform: {from: 0, to: 1, end: 0.5}}}\n"
        "data: {augmentation: {scale: [0.5, 1.0], re_prob: 0.2}}",
        "model: {architecture: {vision_cfg: {layers: 3}}, temperature: {to: 0.2}}\n"
        "loss: {terms: {uniform: {to: 3}, clip: 1}}\n"
        "data: {augmentation: {re_prob: 0.1}}",
    )
    config = read_arguments(Config, both)
    assert config == load_config(tmp_path / "0.yaml", tmp_path / "1.yaml")
    assert config.model.architecture == ARCHITECTURE | {"vision_cfg": ARCHITECTURE["vision_cfg"] | {"layers": 3}}
    assert config.model.temperature == {"from": 0.1, "to": 0.2, "end": 0.5}
    assert config.loss.terms == {"align": 2, "uniform": {"from": 0, "to": 3, "end": 0.5}, "clip": 1}
    assert config.data.augmentation == AugmentationConfig(scale=(0.5, 1.0), re_prob=0.1)
    config = read_arguments(Config, [*both, "--loss.terms.align=0", "--data.augmentation.scale=[0.1, 1]"])
    assert config.loss.terms["align"] == 0
    assert config.loss.terms["clip"] == 1
    assert config.data.augmentation == AugmentationConfig(scale=(0.1, 1.0), re_prob=0.1)


def test_order_whole_values_and_empty_mappings(tmp_path):
    first, second, group = files(
        tmp_path, "loss: {terms: {align: 2, clip: 1}}", "loss: {terms: {}}", "terms: {clip: 8}"
    )
    terms = [
        read_arguments(Config, typed).loss.terms
        for typed in (
            [first, second],
            [second, first],
            ["--loss.terms.align=5", first],
            [first, "--loss.terms={uniform: 1}"],
            [first, "--loss.terms={uniform: 1}", "--loss.terms.align=3"],
            [first, "--loss={terms: {align: 7}}"],
            [first, group.replace("config", "loss")],
            [first, "--loss.terms={}"],
        )
    ]
    assert terms == [
        {},
        {"align": 2, "clip": 1},
        {"align": 2, "clip": 1},
        {"uniform": 1},
        {"uniform": 1, "align": 3},
        {"align": 7, "clip": 1},
        {"align": 2, "clip": 8},
        {},
    ]


def test_defaults_that_are_mappings_keep_their_other_keys():
    found = read_arguments(CaptionConfig, ["--decoder.architecture.n_layer=2"]).decoder.architecture
    assert found == {"n_layer": 2, "n_head": 4, "n_embd": 128}
    assert read_arguments(CaptionConfig, []).decoder.architecture["n_layer"] == 4  # the default is as it was
    schedule = ["--model.temperature.from=0.1", "--model.temperature.to=0.2"]
    assert read_arguments(Config, schedule).model.temperature == {"from": 0.1, "to": 0.2}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--model.temperature.from=0.1", "model.temperature: {'from': 0.1} has no key to"),
        ("--loss.terms={a: {from: 0, to: 1, by: 2}}", "has the unknown key by"),
        ("--loss.terms.clip=much", "loss.terms: much does not work, it must be a finite number"),
        ("--optim.lr.x=3", "optim.lr.x: unknown key, did you mean optim.lr?"),
        ("--data.augmentation.scal=[1, 1]", "data.augmentation.scal: unknown key"),
        (
            "--data.augmentation.re_prob=7",
            "data.augmentation.re_prob: 7 does not work, it must be a number from 0 to 1",
        ),
        ("--model.architecture=3", "model.architecture: 3 does not work, it must be a mapping"),
        ("--data.augmentation=3", "data.augmentation: 3 does not work, it must be a mapping"),
        ("--model.architecture.a=" + "[" * 5000 + "]" * 5000, "model.architecture.a: [[["),
        ("--model.architecture.a=" + "[" * 900 + "]" * 900, "nested too deeply"),
        ("--model.architecture.a=[1", "model.architecture.a: [1 is no value of YAML"),
        ("--data=3", "data: 3 does not work, it must be a mapping of its keys"),
        ("--see=3", "see: unknown key, did you mean seed?"),
        ("--data.drop_last=maybe", "data.drop_last: maybe does not work, it must be true or false"),
        ("--optim.betas=[1]", "optim.betas: [1] does not work, it must be a list of 2 elements"),
        ("--eval.datasets=emoji", "eval.datasets: emoji does not work, it must be a list"),
        ("--config=", "config: the path is empty"),
        ("--config=/", "config: / cannot be read (Is a directory)"),
        ("--config=${NO_SUCH}/a", "config: the environment variable NO_SUCH is not set"),
    ],
)
def test_what_does_not_work_is_one_line(typed, message):
    with pytest.raises(ConfigError) as caught:
        read_arguments(Config, [typed])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"model: 3", "model: 3 does not work, it must be a mapping of its keys"),
        (b"- 1", "is not a mapping"),
        (b"name: \xe9t\xe9", "is no YAML in UTF-8"),
        ("name: été".encode("utf-16"), "is no YAML in UTF-8"),
        (b"name: [", "is no YAML in UTF-8"),
        (b"\x00\x01\x02", "is no YAML in UTF-8"),
        (b"seed: 1\nname: a\nseed: 2", "the key seed stands twice in one mapping (line 3)"),
        (b"data: {path: a, path: b}", "the key path stands twice"),
        (b"model: " + b"{a: " * 3000 + b"}" * 3000, "is nested too deeply"),
        (b"model.architecture.embed_dim: 3", "a key inside of model.architecture is written nested in it"),
        (b"data: {augmentation.re_prob: 0.5}", "a key inside of data.augmentation is written nested in it"),
    ],
)
def test_files_that_do_not_work_are_one_line(tmp_path, content, message):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_arguments(Config, [f"--config={tmp_path / 'a.yaml'}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_of_files_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    (tmp_path / "a.yaml").write_text("output: ~/runs\ndata: {path: '${DATA}/good', karpathy: ~/k.json}")
    config = read_arguments(
        Config, ["--config", "~/a.yaml", "--model.pretrained=~/w.pt", "--eval.root=${DATA}/{dataset}"]
    )
    assert config.output == f"{tmp_path}/runs"
    assert (config.data.path, config.data.karpathy) == (f"{tmp_path}/data/good", f"{tmp_path}/k.json")
    assert (config.model.pretrained, config.eval.root) == (f"{tmp_path}/w.pt", f"{tmp_path}/data/{{dataset}}")
