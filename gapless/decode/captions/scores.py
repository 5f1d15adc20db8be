"""Scores of generated captions: pycocoevalcap's, with Java or without.

BLEU, ROUGE-L and CIDEr-D are the same code on both ways; only the tokens differ. With Java, the Penn Treebank tokeniser
makes them and METEOR is there (and SPICE, where its models were fetched). Without, :func:`simple_tokens` does.
"""

import contextlib
import importlib.util
import io
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gapless.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

TokenizerName = Literal["auto", "ptb", "simple"]
CLIPSCORE_WEIGHT = 2.5
"""Of Hessel et al. 2021."""
SPICE_MODELS = "spice/lib/stanford-corenlp-3.6.0-models.jar"


def simple_tokens(text: str) -> str:
    """Small letters; words with their inner hyphens and apostrophes, numbers; punctuation is gone."""
    return " ".join(re.findall(r"\w+(?:[-'.]\w+)*", text.lower()))


def automatic_tokenizer() -> TokenizerName:
    """What auto stands for on this machine."""
    return "ptb" if shutil.which("java") is not None else "simple"


def caption_scores(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenizer: TokenizerName = "auto"
) -> tuple[dict[str, float], str]:
    """Corpus scores of one caption for each id.

    Args:
        captions: what was generated, by id.
        references: captions that people wrote, by id.
        tokenizer: ptb needs Java; auto takes it where there is Java, and simple elsewhere.

    Returns:
        ``bleu_1`` to ``bleu_4``, ``rouge_l``, ``cider`` (CIDEr-D; times 10, as pycocoevalcap has it: 1.0 is printed as
        100 in papers), with Java ``meteor`` and perhaps ``spice``; and which tokeniser it was.

    Raises:
        ConfigError: ptb without Java.
        DataError: an id without a reference, or nothing to score.
    """
    missing = [name for name in captions if not references.get(name)]
    if missing or not captions:
        named = f"id {missing[0]!r} has no reference ({len(missing)} have none)" if missing else "there are no captions"
        raise DataError(named)
    if tokenizer == "ptb" and automatic_tokenizer() != "ptb":
        raise ConfigError("tokenizer: ptb needs Java, simple does not")
    ptb = (automatic_tokenizer() if tokenizer == "auto" else tokenizer) == "ptb"
    generated = {name: [text] for name, text in captions.items()}
    written = {name: list(references[name]) for name in captions}
    if ptb:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        generated, written = (
            PTBTokenizer().tokenize({name: [{"caption": t} for t in texts] for name, texts in side.items()})
            for side in (generated, written)
        )
    else:
        generated, written = (
            {name: [simple_tokens(t) for t in texts] for name, texts in side.items()} for side in (generated, written)
        )
    return _scores(written, generated, ptb), "Penn Treebank (Java)" if ptb else "simple (no Java)"


def _scores(written: dict[str, list[str]], generated: dict[str, list[str]], java: bool) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu = Bleu(4).compute_score(written, generated, verbose=0)[0]
    scores = {f"bleu_{n}": float(value) for n, value in enumerate(bleu, 1)}
    scores["rouge_l"] = float(Rouge().compute_score(written, generated)[0])
    scores["cider"] = float(Cider().compute_score(written, generated)[0])
    if java:
        from pycocoevalcap.meteor.meteor import Meteor

        meteor = Meteor()
        with meteor.meteor_p:  # which it would leave running, with its pipes
            scores["meteor"] = float(meteor.compute_score(written, generated)[0])
        if _has_spice_models():
            from pycocoevalcap.spice.spice import Spice

            with contextlib.redirect_stdout(io.StringIO()):
                scores["spice"] = float(Spice().compute_score(written, generated)[0])
        else:
            logger.info("no SPICE: its models are fetched by pycocoevalcap.spice.get_stanford_models")
    return scores


def _has_spice_models() -> bool:
    """pycocoevalcap would download half a gigabyte unasked."""
    spec = importlib.util.find_spec("pycocoevalcap")
    places = spec.submodule_search_locations if spec else None
    return any((Path(place) / SPICE_MODELS).is_file() for place in places or ())


def clip_score(image_features: Tensor, text_features: Tensor) -> float:
    """CLIPScore (Hessel et al. 2021): mean of 2.5 max(cos, 0) of images and their captions.

    Args:
        image_features: unit-norm (N, D).
        text_features: unit-norm (N, D).
    """
    cosines = torch.linalg.vecdot(image_features, text_features)
    return float(CLIPSCORE_WEIGHT * cosines.clamp(min=0).mean())
