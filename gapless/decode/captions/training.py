"""Training a captioner on embeddings, through the same loop as everything else.

Axis letters: n captions of this process, D dimensions, L tokens.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from gapless.data import Place
from gapless.decode.captions.batches import CaptionBatch, CaptionData, CaptionedEmbeddings, load_captioned, padded
from gapless.decode.captions.captioner import (
    IGNORED,
    Captioner,
    load_captioner,
    save_captioner,
)
from gapless.decode.captions.config import CaptionConfig, check_caption_config
from gapless.decode.captions.gpt2 import new_decoder, pretrained_decoder
from gapless.decode.store import FeatureStore
from gapless.decode.transforms import Preparation
from gapless.engine.checkpoint import Checkpoints, Progress
from gapless.engine.parts import Parts
from gapless.engine.processes import exchange
from gapless.engine.run import carry_out, prepare
from gapless.engine.tracking import Tracker
from gapless.errors import ConfigError, DataError
from gapless.eval.together import together
from gapless.run_folder import CHECKPOINTS, LATEST
from gapless.signals import StopFlag

logger = logging.getLogger(__name__)


class CaptionStep:
    """Mean cross-entropy over all tokens of a global batch; leaves the gradients in the parameters.

    Args:
        model: a Captioner prepared by accelerate.
        accelerator: for mixed precision and gradient synchronisation.
        micro_batch_size: captions of one forward pass; None for all at once.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, micro_batch_size: int | None = None) -> None:
        self.model, self.accelerator, self.micro_batch_size = model, accelerator, micro_batch_size

    def __call__(self, batch: CaptionBatch, sizes: Sequence[int], step: int = 0) -> dict[str, Tensor]:
        """``loss``, in nats a token, the same on every process."""
        device = self.accelerator.device
        count = sum(n for (n,) in exchange([int((batch.tokens != IGNORED).sum())], device))
        parts = -(-max(sizes) // (self.micro_batch_size or max(sizes)))
        total = torch.zeros((), device=device)
        pieces = list(zip(batch.prepared.tensor_split(parts), batch.tokens.tensor_split(parts), strict=True))
        for number, (prepared, tokens) in enumerate(pieces, 1):
            with nullcontext() if number == parts else self.accelerator.no_sync(self.model):
                loss = self.model(prepared.to(device), tokens.to(device)) / count
                # DDP takes the mean of the processes' gradients; theirs are parts of one sum.
                self.accelerator.backward(loss * len(sizes))
            total += loss.detach()
        return {"loss": self.accelerator.reduce(total, "sum")}


class CaptionEvaluation:
    """Cross-entropy and perplexity of a split of the training modality, without noise.

    Args:
        captioned: embeddings and captions.
        tokens: of each caption.
        preparation: of embeddings.
        batch_size: captions of one forward pass.
        accelerator: whose processes share the work.
    """

    def __init__(
        self,
        captioned: CaptionedEmbeddings,
        tokens: Sequence[Tensor],
        preparation: Preparation,
        batch_size: int,
        accelerator: Accelerator,
    ) -> None:
        self.prepared, self.rows, self.tokens = (
            preparation(captioned.embedding, captioned.modality),
            captioned.row_of_caption,
            tokens,
        )
        self.batch_size, self.accelerator = batch_size, accelerator

    @torch.no_grad()
    def run(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
        poll: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """``val/loss`` in nats a token, ``val/perplexity``, ``val/num_captions``."""
        device, place = self.accelerator.device, Place.here()
        training = model.training
        model.eval()
        mine = torch.arange(len(self.tokens))[place.chunk(len(self.tokens))]
        total = torch.zeros(2, dtype=torch.float64, device=device)
        first = torch.zeros(1, dtype=torch.long)
        for part in together(torch.split(mine, self.batch_size) if len(mine) else (), lambda: mine[:0]):
            shown = part if len(part) else first
            tokens = padded([self.tokens[i] for i in shown.tolist()])
            with autocast():
                loss = model(self.prepared[self.rows[shown]].to(device), tokens.to(device))
            if len(part):
                total += torch.tensor([float(loss), float((tokens != IGNORED).sum())], device=device)
            poll()
        model.train(training)
        loss, count = self.accelerator.reduce(total, "sum").tolist()
        mean = loss / count
        return {
            "val/loss": mean,
            "val/perplexity": float(torch.tensor(mean).exp()),
            "val/num_captions": float(len(self.tokens)),
        }


def train_captioner(config: CaptionConfig, fresh: bool = False, resume: str = LATEST) -> Path:
    """Train, or continue, a captioner, and export it.

    Args:
        config: the run.
        fresh: start anew in a folder beside an existing one.
        resume: checkpoint to continue from: latest, older for the newest whole one, or its name.

    Returns:
        The run's folder.

    Raises:
        GaplessError: see the exit codes of ``gapless caption train``.
    """
    check_caption_config(config)
    return carry_out(config, partial(build_parts, config), fresh=fresh, resume=resume)


def build_parts(
    config: CaptionConfig,
    accelerator: Accelerator,
    folder: Path,
    checkpoint: Path | None,
    progress: Progress,
    stop: StopFlag,
) -> Parts:
    """Everything the loop needs; from a checkpoint, exactly as it was left."""
    features = config.features
    store = FeatureStore(Path(features.path))
    train = load_captioned(store, features.modality, "train", features.fraction, config.seed)
    captioner = _build_captioner(config, store, train, accelerator, checkpoint)
    tokens = _tokens(captioner, train.captions, features.max_tokens)
    data = CaptionData(train, tokens, captioner.preparation, features.batch_size, config.seed, Place.here())
    val = load_captioned(store, features.modality, "val")
    tokens = _tokens(captioner, val.captions, features.max_tokens)
    evaluation = CaptionEvaluation(val, tokens, captioner.preparation, config.eval.batch_size, accelerator)
    prepared, optimizer, average = prepare(accelerator, captioner, config, checkpoint, progress, lambda m: m)
    weights = accelerator.unwrap_model(prepared)
    return Parts(
        config=config,
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer,
        step=CaptionStep(prepared, accelerator, config.train.micro_batch_size),
        data=data,
        evaluations=[evaluation],
        evaluate_every=config.eval.every_epochs,
        checkpoints=Checkpoints(
            folder / CHECKPOINTS, accelerator, config.checkpoint.keep_last, weights, partial(save_captioner, weights)
        ),
        tracker=Tracker(folder, accelerator),
        average=average,
        fingerprint=f"{train.fingerprint()} {val.fingerprint()}",
        stop=stop,
        progress=progress,
    )


def _build_captioner(
    config: CaptionConfig,
    store: FeatureStore,
    train: CaptionedEmbeddings,
    accelerator: Accelerator,
    checkpoint: Path | None,
) -> Captioner:
    """A new captioner, or that of a checkpoint, which fits the embeddings."""
    torch.manual_seed(config.seed)
    with accelerator.main_process_first():  # one process downloads weights
        captioner = load_captioner(checkpoint) if checkpoint else _new_captioner(config, store.means(), train)
    store.check_space(captioner.space)
    captioner.space = store.model or captioner.space
    if train.embedding.shape[1] != captioner.embed_dim:
        raise DataError(
            f"{store.folder} has {train.embedding.shape[1]} dimensions, the captioner takes {captioner.embed_dim}"
        )
    if captioner.context_length < 2:
        raise ConfigError(
            f"decoder.prefix_length: {captioner.prefix_length} leaves no room for captions in the decoder's "
            f"{captioner.decoder.config.n_positions} positions"
        )
    if config.decoder.frozen:
        captioner.decoder.requires_grad_(False)
    if config.train.compile:
        captioner.decoder.transformer.compile()
    return captioner


def _tokens(captioner: Captioner, captions: Sequence[str], max_tokens: int) -> list[Tensor]:
    longest = min(max_tokens, captioner.context_length)
    tokens, cut = captioner.tokenize(captions, longest)
    if cut and PartialState().is_main_process:
        logger.warning("%d of %d captions are longer than %d tokens and were cut", cut, len(captions), longest)
    return tokens


def _new_captioner(config: CaptionConfig, stored: Mapping[str, Tensor], train: CaptionedEmbeddings) -> Captioner:
    settings, prepare = config.decoder, config.prepare
    start = load_captioner(Path(settings.start)) if settings.start else None
    means = dict(start.preparation.means) if start else {}
    means |= stored
    if train.modality not in means:
        means[train.modality] = train.embedding.mean(dim=0)
    preparation = Preparation(prepare.collapse, prepare.noise, prepare.span_of, prepare.renormalise, means)
    if preparation.span_of is not None and not set(preparation.span_of) <= set(means):
        raise ConfigError(f"prepare.span_of: {list(preparation.span_of)} need means, there are {', '.join(means)}")
    if start is not None:
        start.preparation = preparation
        return start
    if settings.name:
        decoder, tokenizer = pretrained_decoder(settings.name)
    else:
        positions = settings.prefix_length + config.features.max_tokens
        decoder, tokenizer = new_decoder(train.captions, settings.architecture, settings.vocab_size, positions)
    return Captioner(decoder, tokenizer, train.embedding.shape[1], preparation, settings.mapper, settings.prefix_length)
