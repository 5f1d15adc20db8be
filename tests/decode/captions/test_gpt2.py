"""GPT-2 from scratch and of others."""

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from gapless.decode.captions.gpt2 import END, new_decoder, pretrained_decoder
from gapless.errors import ConfigError, DataError
from tests.decode.stores import captions


def test_a_decoder_from_scratch_has_its_sizes_and_the_tokens_of_the_captions():
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_inner": 48, "attn_pdrop": 0.25, "embd_pdrop": 0.5}
    decoder, tokenizer = new_decoder(iter(captions()), sizes, 290, 17)
    config = decoder.config
    assert (config.n_layer, config.n_head, config.n_embd, config.n_inner) == (3, 4, 32, 48)
    assert (config.attn_pdrop, config.embd_pdrop, config.n_positions, config.vocab_size) == (0.25, 0.5, 17, 290)
    end = tokenizer.convert_tokens_to_ids(END)
    assert (config.bos_token_id, config.eos_token_id) == (end, end)
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == (END, END, 290)
    texts = ["a red dog by night", captions()[7]]
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(ids) == texts  # no space before the first word
    assert len(ids[1]) < len(captions()[7]) - 5  # pairs of letters were learned


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_layers": 2},
        {"n_layer": 0},
        {"n_layer": 1.5},
        {"n_embd": -32},
        {"n_inner": 0.5},
        {"n_embd": 33, "n_head": 2},
        {"n_embd": 32},  # GPT-2's own twelve heads do not divide it
        {"n_head": 5},  # nor these its own width
    ],
)
def test_sizes_that_gpt2_does_not_have_are_refused(sizes):
    with pytest.raises(ConfigError) as error:
        new_decoder(captions(), sizes, 290, 17)
    assert str(error.value) == (
        f"decoder.architecture: {sizes} does not work, it has attn_pdrop, embd_pdrop, n_embd, n_head, n_inner, "
        "n_layer, resid_pdrop, and n_head divides n_embd"
    )


def test_a_decoder_of_others_must_be_whole_and_have_an_end(tmp_path):
    _, tokenizer = new_decoder(captions(), {"n_layer": 1, "n_head": 2, "n_embd": 32}, 290, 17)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=290, n_positions=17, n_layer=2, n_head=2, n_embd=32))
    state = {name: t for name, t in gpt2.state_dict().items() if name != "transformer.h.1.ln_1.weight"}
    gpt2.save_pretrained(tmp_path / "less", state_dict=state)
    tokenizer.save_pretrained(tmp_path / "less")
    with pytest.raises(DataError) as error:
        pretrained_decoder(str(tmp_path / "less"))
    assert str(error.value) == (
        f"decoder.name: the weights of {str(tmp_path / 'less')!r} are no GPT-2's, they lack transformer.h.1.ln_1.weight"
    )
    gpt2.save_pretrained(tmp_path / "endless")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(DataError) as error:
        pretrained_decoder(str(tmp_path / "endless"))
    assert str(error.value) == f"decoder.name: the tokens of {str(tmp_path / 'endless')!r} have no end of text"
