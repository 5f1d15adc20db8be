"""How captions are searched for, with a mapper and a decoder made by hand."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from gapless.decode import Captioner, Decoding, Preparation
from gapless.errors import DataError

D = 4
ROWS = torch.tensor([[3.0, 0, 4, 0], [0, 1, 0, 0], [0, 0, 2, 1], [1, 1, 1, 1]])


class Prefix(Captioner):
    """A captioner whose mapper and decoder note what they are given."""

    def __init__(self, preparation, positions=10):
        torch.nn.Module.__init__(self)
        self.preparation, self.embed_dim, self.prefix_length = preparation, D, 2
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.given, self.asked = [], []
        self.tokenizer = SimpleNamespace(eos_token_id=3, batch_decode=self._words)
        self.decoder = SimpleNamespace(config=SimpleNamespace(n_positions=positions), generate=self._generate)

    def mapper(self, prepared):
        self.given.append(prepared)
        return prepared[:, None, :].expand(-1, 2, -1)

    def _generate(self, **options):
        self.asked.append(options)
        return options["inputs_embeds"][:, 0, :1]

    def _words(self, tokens, skip_special_tokens):
        return [f" {skip_special_tokens} {float(row):.3f} " for row in tokens[:, 0]]


def test_a_shift_is_added_to_what_was_prepared():
    """Not taken from it: the test of a wider gap would be one of a narrower."""
    means = {"image": torch.tensor([0.5, 0, 0, 0])}
    model = Prefix(Preparation(collapse=True, renormalise=False, means=means))
    shift = torch.tensor([0.25, -1.0, 2.0, 0.0], dtype=torch.float64)
    counted = []
    captions = model.generate(3 * ROWS, "image", Decoding(batch_size=3), shift, counted.append)
    prepared = F.normalize(ROWS, dim=1) - means["image"]
    torch.testing.assert_close(torch.cat(model.given), prepared + shift.float())
    assert counted == [3, 4]
    assert captions == [f"True {float(row[0]) + 0.25:.3f}" for row in prepared]
    model.given.clear()
    model.generate(ROWS, "image")
    torch.testing.assert_close(torch.cat(model.given), prepared)


@pytest.mark.parametrize(
    ("decoding", "options"),
    [
        (Decoding(), {"do_sample": False}),
        (Decoding("beam", beams=7), {"do_sample": False, "num_beams": 7}),
        (Decoding("nucleus", top_p=0.3), {"do_sample": True, "top_p": 0.3, "top_k": 0}),
    ],
)
def test_the_search_is_the_one_that_is_asked_for(decoding, options):
    model = Prefix(Preparation(collapse=False), positions=50)
    model.generate(ROWS[:1], "image", decoding)
    (asked,) = model.asked
    assert asked.pop("inputs_embeds").shape == (1, 2, D)
    mask = asked.pop("attention_mask")
    assert (mask.tolist(), mask.dtype) == ([[1, 1]], torch.long)
    assert asked == options | {"max_new_tokens": 40, "eos_token_id": 3, "pad_token_id": 3}
    with pytest.raises(DataError) as error:
        model.generate(torch.ones(1, D + 1), "image", decoding)
    assert str(error.value) == "embeddings have 5 dimensions, this captioner takes 4"


def test_captions_end_where_the_decoder_does():
    for positions, longest, expected in ((10, 40, 8), (10, 5, 5), (50, 40, 40)):
        model = Prefix(Preparation(collapse=False), positions)
        model.generate(ROWS, "image", Decoding(max_tokens=longest))
        assert model.asked[0]["max_new_tokens"] == expected
