import open_clip
import torch

from gapless.data.samples import Collate, Sample
from gapless.data.tokens import CaptionTokenizer


def test_a_batch_is_cut_to_its_longest_caption():
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    captions = ["a dog", "a very large dog in the snow", "dog " * 100]
    for k, length in ((2, 9), (3, 77)):
        trimmed = CaptionTokenizer(tokenizer, trim=True)(captions[:k])
        full = CaptionTokenizer(tokenizer, trim=False)(captions[:k])
        assert trimmed.shape == (k, length)
        assert torch.equal(trimmed, full[:, :length])
        assert full.shape == (k, 77)
        assert not full[:, length:].any()


def test_captions_longer_than_the_context_are_known_and_those_that_just_fit_are_not():
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    fits, longer = "dog " * 75, "dog " * 76
    for trim in (True, False):
        tokenize = CaptionTokenizer(tokenizer, trim)
        captions = ["a dog", fits, longer, longer + "x"]
        assert tokenize.too_long(captions, tokenize(captions)) == captions[2:]
        assert tokenize.too_long(captions[:2], tokenize(captions[:2])) == []
        assert tokenize.too_long(captions[:1], tokenize(captions[:1])) == []
    batch = Collate(tokenize, (2, 2))(
        [Sample(i, torch.zeros(3, 2, 2), c, ["alpha"], (i, i), torch.zeros(3, 2, 2)) for i, c in enumerate(captions)]
    )
    assert batch.converted == {"alpha": 4, "long_caption": 2}
    assert batch.first_cut == longer[:80]
    empty = Collate(tokenize, (2, 2))([])
    assert (empty.converted, empty.first_cut) == ({}, "")
