import open_clip
import torch

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
