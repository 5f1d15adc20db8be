"""From a configuration and a store to the parts of a captioner's run: every value reaches its place."""

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file

from gapless.config import CheckpointConfig, OptimConfig, TrainConfig
from gapless.data import Place
from gapless.decode import load_captioner, save_captioner, save_features, save_means
from gapless.decode.captions import training as room
from gapless.decode.captions.config import (
    CaptionConfig,
    CaptionEvalConfig,
    DecoderConfig,
    FeaturesConfig,
    PrepareConfig,
)
from gapless.decode.captions.gpt2 import pretrained_decoder
from gapless.decode.captions.training import build_parts, train_captioner
from gapless.engine.checkpoint import Progress
from gapless.errors import ConfigError, DataError
from gapless.signals import StopFlag

D = 4
TEXTS = {"train": ["a red car", "two dogs", "a red dog"], "val": ["a car", "two red dogs"]}
ROWS = {
    ("text", "train"): torch.tensor([[3.0, 0, 4, 0], [0, 1, 0, 0], [0, 0, 2, 0]]),
    ("text", "val"): torch.tensor([[0.0, 0, 0, 5], [1, 0, 0, 0]]),
    ("image", "train"): torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]),
    ("image", "val"): torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1]]),
}
MEANS = {"text": torch.tensor([0.1, 0.2, 0.3, 0.4]), "image": torch.tensor([0.4, 0.3, 0.2, 0.1])}


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    for (modality, split), rows in ROWS.items():
        texts = TEXTS[split] if modality == "text" else None
        save_features(folder, modality, split, [f"{split}{k}" for k in range(len(rows))], rows, texts, "digest")
    save_means(folder, MEANS, "digest")
    return folder


def small(store, **changes):
    parts = {
        "seed": 8,
        "features": FeaturesConfig(path=str(store), batch_size=2, max_tokens=9),
        "prepare": PrepareConfig(noise=0.0),
        "decoder": DecoderConfig(
            architecture={"n_layer": 1, "n_head": 2, "n_embd": 8}, vocab_size=300, prefix_length=3
        ),
        "optim": OptimConfig(lr=0.03, betas=(0.6, 0.7), eps=1e-5, weight_decay=0.4, ema_decay=0.8),
        "train": TrainConfig(epochs=4, micro_batch_size=5),
        "eval": CaptionEvalConfig(every_epochs=2, batch_size=1),
        "checkpoint": CheckpointConfig(keep_last=6),
    }
    return CaptionConfig(**parts | changes)


def build(config, folder, checkpoint=None):
    return build_parts(config, Accelerator(cpu=True), folder, checkpoint, Progress(step=6), StopFlag())


def test_the_loop_gets_what_the_configuration_says(store, tmp_path):
    config, accelerator, progress, stop = small(store), Accelerator(cpu=True), Progress(step=6), StopFlag()
    parts = build_parts(config, accelerator, tmp_path / "run", None, progress, stop)
    assert parts.config is config
    assert parts.accelerator is accelerator
    assert (parts.progress is progress, parts.stop is stop) == (True, True)
    assert (parts.data.num_samples, parts.data.steps_per_epoch, parts.total) == (3, 2, 8)
    assert (parts.evaluate_every, parts.kept_epochs, parts.least_rows) == (2, (), 1)
    assert parts.tracker.path == tmp_path / "run" / "metrics.jsonl"
    assert parts.checkpoints.folder == tmp_path / "run" / "checkpoints"
    assert parts.checkpoints.keep_last == 6
    assert parts.checkpoints.weights is parts.model is parts.step.model
    assert parts.step.accelerator is accelerator
    assert parts.step.micro_batch_size == 5
    assert parts.average.decay == 0.8
    groups = parts.optimizer.param_groups
    assert {(g["lr"], g["betas"], g["eps"]) for g in groups} == {(0.03, (0.6, 0.7), 1e-5)}
    state = {n: t + 1 for n, t in parts.model.state_dict().items()}
    parts.checkpoints.write_model(tmp_path / "out", state)
    loaded = load_captioner(tmp_path / "out")
    assert torch.equal(loaded.mapper[0].weight, state["mapper.0.weight"])
    assert loaded.space == "digest"


def test_training_sees_the_train_split_and_evaluation_the_val_split(store, tmp_path):
    parts = build(small(store), tmp_path)
    train, val = parts.data.captioned, parts.evaluations[0]
    torch.testing.assert_close(train.embedding, F.normalize(ROWS["text", "train"], dim=1))
    assert train.captions == TEXTS["train"]
    decode = parts.model.tokenizer.decode
    assert [decode(t, skip_special_tokens=True) for t in parts.data.tokens] == TEXTS["train"]
    assert [decode(t, skip_special_tokens=True) for t in val.tokens] == TEXTS["val"]
    expected = F.normalize(F.normalize(ROWS["text", "val"], dim=1) - MEANS["text"], dim=1)
    torch.testing.assert_close(val.prepared, expected)
    assert val.rows.tolist() == [0, 1]
    assert val.batch_size == 1
    assert (parts.data.batch_size, parts.data.seed) == (2, 8)
    assert parts.data.prepare is parts.model.preparation
    assert (parts.data.place.rank, parts.data.place.world) == (0, 1)
    assert parts.fingerprint.split() == [
        train.fingerprint(),
        room.load_captioned(room.FeatureStore(store), "text", "val").fingerprint(),
    ]


def test_batches_are_of_this_process(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "here", classmethod(lambda cls: cls(2, 5)))
    parts = build(small(store, train=TrainConfig()), tmp_path)
    assert (parts.data.place.rank, parts.data.place.world) == (2, 5)


def test_the_captioner_is_as_the_configuration_says(store, tmp_path):
    prepare = PrepareConfig(collapse=False, noise=0.3, span_of=("image", "text"), renormalise=False)
    decoder = DecoderConfig(
        architecture={"n_layer": 2, "n_head": 2, "n_embd": 8}, vocab_size=260, prefix_length=3, mapper="transformer"
    )
    model = build(small(store, prepare=prepare, decoder=decoder), tmp_path).model
    preparation = model.preparation
    assert (preparation.collapse, preparation.noise, preparation.renormalise) == (False, 0.3, False)
    assert preparation.span_of == ("image", "text")
    assert preparation.means.keys() == MEANS.keys()
    assert all(torch.equal(preparation.means[name], mean) for name, mean in MEANS.items())
    assert (model.embed_dim, model.prefix_length, model.mapper_kind) == (D, 3, "transformer")
    sizes = model.decoder.config
    assert (sizes.n_layer, sizes.n_positions, sizes.vocab_size) == (2, 12, 260)
    assert model.context_length == 9
    assert all(p.requires_grad for p in model.parameters())


def test_the_seed_draws_the_captioner(store, tmp_path):
    first, same, other = (build(small(store, seed=seed), tmp_path).model.mapper[0].weight for seed in (8, 8, 9))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_frozen_decoder_is_not_trained(store, tmp_path):
    decoder = DecoderConfig(architecture={"n_layer": 1, "n_head": 2, "n_embd": 8}, vocab_size=300, frozen=True)
    parts = build(small(store, decoder=decoder), tmp_path)
    assert not any(p.requires_grad for p in parts.model.decoder.parameters())
    assert all(p.requires_grad for p in parts.model.mapper.parameters())
    assert sum(len(g["params"]) for g in parts.optimizer.param_groups) == 4


def test_captions_are_cut_to_what_is_allowed_and_fits(store, tmp_path, caplog):
    features = FeaturesConfig(path=str(store), batch_size=2, max_tokens=3)
    parts = build(small(store, features=features), tmp_path)
    lengths = [len(t) for t in parts.data.tokens]
    assert max(lengths) == 3
    cut = [record.message for record in caplog.records if "cut" in record.message]
    assert len(cut) == 2  # of train and of val
    assert cut[0].endswith("of 3 captions are longer than 3 tokens and were cut")
    assert cut[1].endswith("of 2 captions are longer than 3 tokens and were cut")
    save_captioner(parts.model, tmp_path / "start")
    # A decoder that begins with another one has that one's positions.
    longer = FeaturesConfig(path=str(store), batch_size=2, max_tokens=30)
    parts = build(small(store, features=longer, decoder=DecoderConfig(start=str(tmp_path / "start"))), tmp_path)
    assert max(len(t) for t in parts.data.tokens) == 3


def test_the_mean_of_the_training_rows_stands_in_where_none_is_stored(store, tmp_path):
    (store / "means.safetensors").unlink()
    means = build(small(store), tmp_path).model.preparation.means
    assert list(means) == ["text"]
    torch.testing.assert_close(means["text"], F.normalize(ROWS["text", "train"], dim=1).mean(dim=0))


def test_a_captioner_continues_another_with_the_stores_means(store, tmp_path):
    start = build(small(store), tmp_path).model
    start.preparation = start.preparation.with_mean("audio", torch.ones(D)).with_mean("text", torch.zeros(D))
    save_captioner(start, tmp_path / "start")
    prepare = PrepareConfig(noise=0.7, collapse=False, renormalise=False)
    model = build(small(store, prepare=prepare, decoder=DecoderConfig(start=str(tmp_path / "start"))), tmp_path).model
    assert torch.equal(model.mapper[0].weight, start.mapper[0].weight)
    assert (model.preparation.noise, model.preparation.collapse, model.preparation.renormalise) == (0.7, False, False)
    assert model.preparation.means.keys() == {"audio", "text", "image"}
    assert torch.equal(model.preparation.means["text"], MEANS["text"])
    assert model.prefix_length == 3


def test_a_resumed_captioner_is_the_checkpoints(store, tmp_path):
    made = build(small(store, seed=9), tmp_path).model
    save_captioner(made, tmp_path / "step")
    save_file({}, tmp_path / "step" / "optimizer.safetensors")
    save_file({"cpu": torch.get_rng_state()}, tmp_path / "step" / "rng_0.safetensors")
    parts = build(small(store, prepare=PrepareConfig(noise=0.9)), tmp_path, tmp_path / "step")
    assert torch.equal(parts.model.mapper[0].weight, made.mapper[0].weight)
    assert parts.model.preparation.noise == 0.0  # as it was left; changed keys are refused before


def test_embeddings_of_another_space_or_size_are_refused(store, tmp_path):
    start = build(small(store), tmp_path).model
    start.space = "other"
    save_captioner(start, tmp_path / "start")
    again = small(store, decoder=DecoderConfig(start=str(tmp_path / "start")))
    with pytest.raises(DataError, match="another model than the captioner learned from"):
        build(again, tmp_path)
    wide = tmp_path / "wide"
    for split in ("train", "val"):
        save_features(wide, "text", split, ["a"], torch.ones(1, D + 1), ["a dog"])
    start.space = ""
    save_captioner(start, tmp_path / "start")
    with pytest.raises(DataError) as error:
        build(small(wide, decoder=DecoderConfig(start=str(tmp_path / "start"))), tmp_path)
    assert str(error.value) == f"{wide} has 5 dimensions, the captioner takes 4"


def test_a_prefix_without_room_behind_it_is_refused(store, tmp_path, monkeypatch):
    gpt2, tokenizer = room.new_decoder(TEXTS["train"], {"n_layer": 1, "n_head": 2, "n_embd": 8}, 270, 10)
    asked = []
    monkeypatch.setattr(room, "pretrained_decoder", lambda name: (asked.append(name), (gpt2, tokenizer))[1])
    with pytest.raises(ConfigError) as error:
        build(small(store, decoder=DecoderConfig(name="gpt2", prefix_length=9)), tmp_path)
    assert str(error.value) == ("decoder.prefix_length: 9 leaves no room for captions in the decoder's 10 positions")
    model = build(small(store, decoder=DecoderConfig(name="gpt2", prefix_length=8)), tmp_path).model
    assert model.decoder is gpt2
    assert asked == ["gpt2", "gpt2"]


def test_a_span_of_what_has_no_mean_is_refused(store, tmp_path):
    with pytest.raises(ConfigError) as error:
        build(small(store, prepare=PrepareConfig(span_of=("audio", "text"))), tmp_path)
    assert str(error.value) == "prepare.span_of: ['audio', 'text'] need means, there are image, text"


def test_the_decoder_is_compiled_if_asked_for(store, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    build(small(store), tmp_path)
    assert compiled == []
    parts = build(small(store, train=TrainConfig(compile=True)), tmp_path)
    assert compiled == [parts.model.decoder.transformer]


def test_a_share_of_the_ids_is_drawn_by_the_seed(store, tmp_path):
    ids = [f"i{k}" for k in range(20)]
    twice = [name for name in ids for _ in range(2)]
    texts = [f"text {name} {k % 2}" for k, name in enumerate(twice)]
    save_features(store, "text", "train", twice, torch.rand(40, D), texts)
    kept = {}
    for seed in (8, 9):
        features = FeaturesConfig(path=str(store), batch_size=2, fraction=0.3)
        said = build(small(store, seed=seed, features=features), tmp_path).data.captioned
        kept[seed] = said.captions
        assert len(said.captions) == 12  # six ids, each with both of its texts
        assert [texts[k] for k in said.row_of_caption.tolist()] == said.captions
        names = {text.split()[1] for text in said.captions}
        order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        assert names == {ids[k] for k in order[:6].tolist()}
    assert kept[8] != kept[9]


def test_a_run_is_carried_out_as_it_is_asked_for(store, monkeypatch):
    carried = []

    def carry(*arguments, **options):
        carried.append((arguments, options))
        return Path("the folder")

    monkeypatch.setattr(room, "carry_out", carry)
    config = small(store)
    assert train_captioner(config, True, "older") == Path("the folder")
    (((same, made), options),) = carried
    assert same is config
    assert (made.func, made.args) == (room.build_parts, (config,))
    assert options == {"fresh": True, "resume": "older"}
    train_captioner(config)
    assert carried[1][1] == {"fresh": False, "resume": "latest"}
    with pytest.raises(ConfigError, match=r"features\.path"):
        train_captioner(small(""))


def test_the_decoder_of_a_folder_is_taken_by_name(tmp_path):
    gpt2, tokenizer = room.new_decoder(TEXTS["train"], {"n_layer": 1, "n_head": 2, "n_embd": 8}, 270, 10)
    gpt2.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    decoder, found = pretrained_decoder(str(tmp_path))
    assert torch.equal(decoder.transformer.wte.weight, gpt2.transformer.wte.weight)
    assert found.get_vocab() == tokenizer.get_vocab()
