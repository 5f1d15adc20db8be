import pytest
import torch
from accelerate import Accelerator

from gapless.config import DataConfig, ModelConfig
from gapless.data import Place, build_eval_data
from gapless.data.emoji import emoji_classes
from gapless.data.pairs import FilePair
from gapless.data.tokens import CaptionTokenizer
from gapless.errors import DataError
from gapless.eval import PairEvaluation, embed_classes, embed_pairs
from gapless.geometry import gap_metrics
from gapless.models import build_model
from tests.processes import run_processes
from tests.runs import TINY


def evaluation(place, n=121, batch_size=8, **options):
    model, tokenizer = build_model(ModelConfig(name="custom", architecture=TINY), seed=2)
    tokenize = CaptionTokenizer(tokenizer, model.trims_captions)
    data = build_eval_data(DataConfig(val_samples=n, workers=0), batch_size, model.preprocess, tokenize, place)
    return model, PairEvaluation(data, tokenizer, emoji_classes(), **options)


def scores_of_a_process():
    state = Accelerator()
    assert state.num_processes == 2
    model, pairs = evaluation(Place(state.process_index, state.num_processes))
    return pairs.run(model)


def test_scores_are_those_of_the_features():
    model, pairs = evaluation(Place())
    scores = pairs.run(model)
    features = embed_pairs(model, pairs.data)
    assert features.indices.tolist() == list(range(121))
    assert scores["val/num_samples"] == 121
    for name, value in gap_metrics(features.image, features.text).items():
        assert scores[f"val/{name}"] == value
    assert {"emoji_group/acc1", "emoji_skin_tone/acc5", "val/text_retrieval_recall@10"} <= set(scores)


def test_two_processes_give_the_numbers_of_one():
    model, pairs = evaluation(Place())
    alone = pairs.run(model)
    for scores in run_processes(2, scores_as_pairs):
        assert dict(scores) == pytest.approx(alone, rel=1e-5)


def scores_as_pairs():
    return list(scores_of_a_process().items())


def test_class_directions_are_normalised_means_of_normalised_prompts():
    model, pairs = evaluation(Place())
    prompts = [("dog", "hound"), ("a red car",)]
    directions = embed_classes(model, pairs.tokenizer, prompts)
    texts = model(tokens=pairs.tokenizer(["dog", "hound", "a red car"]))["text_features"].detach()
    expected = torch.nn.functional.normalize(torch.stack([texts[:2].mean(0), texts[2]]), dim=1)
    torch.testing.assert_close(directions, expected)
    assert model.training


def test_too_few_or_too_many_bad_samples(tmp_path):
    model, pairs = evaluation(Place(), n=4)
    with pytest.raises(DataError, match="at least 5 pairs, there are 4"):
        pairs.run(model)
    model, pairs = evaluation(Place(), n=40)
    source = pairs.data.dataset.source.source
    source.pairs[3] = FilePair("gone", tmp_path / "gone.png", ("a picture",))
    with pytest.raises(DataError, match=r"1 of 40 samples cannot be used, more than .*=0.01; .*gone"):
        pairs.run(model)
    pairs.max_bad_fraction = 0.1
    assert pairs.run(model)["val/num_samples"] == 39
    source.pairs[:] = [source.pairs[3]] * 40
    with pytest.raises(
        DataError, match=r"no usable pair; 40 bad samples \(40 missing_file\), first: (gone: missing file .*){3}$"
    ):
        pairs.run(model)
