from types import SimpleNamespace

import pytest
import torch

from gapless.data.pairs import FilePair, FileSource
from gapless.data.samples import pick_caption
from gapless.eval.embeddings import Embeddings
from gapless.eval.suite import Suite


@pytest.mark.parametrize(("captions", "texts"), [("first", ["one", "three"]), ("all", ["one", "two", "three"])])
def test_the_first_caption_is_the_one_that_training_takes(tmp_path, captions, texts):
    source = FileSource(
        [
            FilePair("a", tmp_path / "a.png", (" ", "one", "two")),
            FilePair("b", tmp_path / "b.png", ("",)),
            FilePair("c", tmp_path / "c.png", ("three",)),
        ]
    )

    def images(pairs, name):
        return Embeddings(torch.zeros(len(pairs), 2), torch.zeros(0, 2), torch.arange(len(pairs)))

    suite = SimpleNamespace(_images=images, _texts=lambda texts: torch.zeros(len(texts), 2))
    found = Suite.embed(suite, "some", source, captions)
    assert (found.captions, found.without_caption) == (texts, 1)
    read = [(tmp_path / f"{name}.png").write_bytes(b"") for name in "abc"]
    assert read == [0, 0, 0]
    assert [pick_caption(source.load(i), "first", "") for i in (0, 2)] == ["one", "three"]
