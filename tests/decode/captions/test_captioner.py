import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaModel

from gapless.decode import Captioner, Decoding, Preparation, load_captioner, save_captioner
from gapless.decode.captions.batches import padded
from gapless.decode.captions.captioner import IGNORED
from gapless.decode.captions.gpt2 import END, new_decoder, pretrained_decoder
from gapless.errors import ConfigError, DataError
from tests.decode.stores import D, captions

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32}


def captioner(mapper="mlp", seed=0, **preparation):
    torch.manual_seed(seed)
    decoder, tokenizer = new_decoder(captions(), SMALL, 300, 24)
    settings = {"collapse": False, "renormalise": False} | preparation
    return Captioner(decoder, tokenizer, D, Preparation(**settings), mapper, 4).eval()


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_the_loss_is_transformers_own_for_each_caption(mapper):
    model, texts = captioner(mapper), captions()[:7]
    embedding = torch.randn(7, D)
    tokens, cut = model.tokenize(texts, 24)
    assert cut == 0
    assert {int(each[-1]) for each in tokens} == {model.tokenizer.convert_tokens_to_ids(END)}
    by_hand = 0.0
    for row, ids in zip(embedding, tokens, strict=True):  # one at a time, with nothing to pad
        inputs = torch.cat([model.mapper(row[None]), model.decoder.transformer.wte(ids)[None]], dim=1)
        labels = torch.cat([torch.full((4,), IGNORED), ids])[None]
        by_hand += model.decoder(inputs_embeds=inputs, labels=labels).loss.item() * len(ids)
    batch = padded(tokens)
    assert (batch == IGNORED).any()  # the batch has padding, and it counts for nothing
    assert model(embedding, batch).item() == pytest.approx(by_hand, rel=1e-5)
    empty = model(embedding[:0], batch[:0])
    empty.backward()
    assert empty.item() == 0
    assert all(p.grad is not None for p in model.mapper.parameters())


def test_long_captions_are_cut_and_counted_and_still_end():
    model = captioner()
    tokens, cut = model.tokenize([captions()[1], "dog"], 5)
    assert cut == 1
    assert len(tokens[0]) == 5
    assert [int(each[-1]) for each in tokens] == [model.tokenizer.eos_token_id] * 2
    assert model.tokenizer.decode(tokens[1], skip_special_tokens=True) == "dog"


def slowly(model, row, longest):
    """One caption, one token at a time, everything computed anew."""
    prefix, ids = model.mapper(model.preparation(row[None], "text")), []
    while len(ids) < longest:
        given = model.decoder.transformer.wte(torch.tensor(ids, dtype=torch.long))[None]
        logits = model.decoder(inputs_embeds=torch.cat([prefix, given], dim=1), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


def trained():
    """Learns ten captions by heart."""
    model, texts = captioner(seed=1).train(), captions()[:40:4]
    embedding = torch.eye(D)[: len(texts)]
    batch, optimizer = padded(model.tokenize(texts, 20)[0]), torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (model(embedding, batch) / len(texts)).backward()
        optimizer.step()
    return model.eval(), embedding, texts


def test_batched_decoding_says_what_one_at_a_time_says():
    model, embedding, texts = trained()
    assert model.generate(embedding, "text") == texts
    torch.manual_seed(5)
    blurred = F.normalize(embedding + 0.3 * torch.randn_like(embedding), dim=1)
    expected = [slowly(model, row, 12) for row in blurred]
    for size in (1, 3, 256):
        assert model.generate(blurred, "text", Decoding(max_tokens=12, batch_size=size)) == expected
    assert model.generate(embedding, "text", Decoding("beam", beams=3)) == texts
    torch.manual_seed(0)
    drawn = model.generate(blurred, "text", Decoding("nucleus", top_p=0.9))
    torch.manual_seed(0)
    assert model.generate(blurred, "text", Decoding("nucleus", top_p=0.9)) == drawn
    assert model.generate(blurred, "text", Decoding("nucleus", top_p=1e-6)) == model.generate(blurred, "text")
    with pytest.raises(DataError, match="have 5 dimensions, this captioner takes 16"):
        model.generate(torch.randn(2, 5), "text")


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_an_export_is_the_same_captioner(tmp_path, mapper):
    model = captioner(mapper, collapse=True, means={"text": torch.randn(D), "image": torch.randn(D)}, noise=0.2)
    save_captioner(model, tmp_path / "export")
    found = load_captioner(tmp_path)  # a run's folder
    embedding = torch.randn(5, D)
    assert found.eval().generate(embedding, "image") == model.generate(embedding, "image")
    torch.testing.assert_close(found.state_dict(), model.state_dict())
    assert found.preparation.noise == 0.2
    torch.testing.assert_close(dict(found.preparation.means), dict(model.preparation.means))
    (tmp_path / "export" / "captioner.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_captioner(tmp_path)
    with pytest.raises(DataError, match=r"has no captioner\.json"):
        load_captioner(tmp_path / "nowhere")


def test_a_gpt2_folder_of_hugging_face_is_taken(tmp_path):
    _, tokenizer = new_decoder(captions(), SMALL, 300, 24)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=30, **SMALL)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    decoder, found = pretrained_decoder(str(tmp_path))
    assert (decoder.config.n_positions, found.eos_token) == (30, END)
    with pytest.raises(DataError, match=r"decoder\.name: .* cannot be loaded"):
        pretrained_decoder(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"decoder\.architecture"):
        new_decoder(captions(), {"n_head": 3, "n_embd": 32}, 300, 24)
    with pytest.raises(ConfigError, match=r"decoder\.architecture"):
        new_decoder(captions(), {"n_head": 0}, 300, 24)


def test_weights_of_another_model_are_not_drawn_at_random(tmp_path):
    _, tokenizer = new_decoder(captions(), SMALL, 300, 24)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    RobertaModel(RobertaConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"decoder\.name: "):
        pretrained_decoder(str(tmp_path))


def test_all_settings_are_in_the_folder(tmp_path):
    means = {"text": torch.randn(D), "image": torch.randn(D)}
    settings = {"collapse": True, "noise": 0.25, "span_of": ("image", "text"), "renormalise": True, "means": means}
    model = captioner("transformer", seed=3, **settings)
    model.space = "digest"
    save_captioner(model, tmp_path)
    found = load_captioner(tmp_path)
    assert (found.embed_dim, found.mapper_kind, found.prefix_length, found.space) == (D, "transformer", 4, "digest")
    kept = found.preparation
    assert (kept.collapse, kept.noise, kept.span_of, kept.renormalise) == (True, 0.25, ("image", "text"), True)
    assert all(torch.equal(kept.means[name], mean) for name, mean in means.items())
    assert found.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert found.decoder.config.n_positions == 24
    torch.testing.assert_close(found.state_dict(), model.state_dict())
    stored = load_file(tmp_path / "captioner.safetensors")
    assert "decoder.lm_head.weight" not in stored  # the token embeddings, which are there
    other = {name: t + 1 for name, t in model.state_dict().items()}
    save_captioner(model, tmp_path, other)
    assert torch.equal(load_captioner(tmp_path).mapper.learned, other["mapper.learned"])


@pytest.mark.parametrize("change", ["less", "more"])
def test_weights_that_do_not_fit_are_named(tmp_path, change):
    save_captioner(captioner(), tmp_path)
    path = tmp_path / "captioner.safetensors"
    tensors = load_file(path)
    if change == "less":
        del tensors["mapper.0.weight"]
    else:
        tensors["more"] = torch.zeros(1)
    save_file(tensors, path)
    name = {"less": "mapper.0.weight", "more": "more"}[change]
    with pytest.raises(DataError, match=rf"captioner\.safetensors does not fit captioner\.json: {name}$"):
        load_captioner(tmp_path)


def test_an_embedding_becomes_its_prefix_through_the_mapper():
    mlp = captioner("mlp").mapper
    x = torch.randn(3, D)
    first, second = mlp[0], mlp[2]
    by_hand = torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(mlp(x), by_hand.view(3, 4, 32))
    assert first.out_features == 4 * 32 // 2
    mapper = captioner("transformer").mapper
    tokens = torch.cat([mapper.spread(x).view(3, 4, 32), mapper.learned.expand(3, 4, 32)], dim=1)
    torch.testing.assert_close(mapper(x), mapper.layers(tokens)[:, 4:])
    assert len(mapper.layers.layers) == 8
    layer = mapper.layers.layers[0]
    assert (layer.self_attn.num_heads, layer.linear1.out_features, layer.dropout.p) == (8, 64, 0.0)
    assert layer.norm_first
    assert mapper.learned.std().item() == pytest.approx(1 / 32**0.5, rel=0.3)
