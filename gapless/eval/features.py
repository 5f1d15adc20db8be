"""Features of a whole data set, embedded on all processes, exactly one row for each pair."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from gapless.data import Place
from gapless.data.images import LONG_CAPTION, BadSampleError
from gapless.data.labelled import LabelledImages
from gapless.data.loader import EvalData
from gapless.data.samples import BadSample, Transform, describe_bad
from gapless.data.tokens import tell_cut, too_long
from gapless.data.workers import Loader
from gapless.errors import DataError, NonFiniteError
from gapless.eval.embeddings import Embeddings
from gapless.eval.metrics.zero_shot import class_directions
from gapless.eval.together import together
from gapless.models import Tokenizer

T = TypeVar("T")
Autocast = Callable[[], AbstractContextManager[None]]


def _nothing() -> None:
    return None


@torch.no_grad()
def embed_pairs(
    model: nn.Module, data: EvalData, autocast: Autocast = nullcontext, poll: Callable[[], None] = _nothing
) -> Embeddings:
    """Embed every pair of a data set, sharded over the processes and gathered on each.

    Args:
        model: a ClipModel, or a wrapper around it with the same forward.
        data: batches of this process.
        autocast: context of the forward pass.
        poll: called after each batch, at the same time on all processes; may raise to stop them.

    Raises:
        DataError: rows lost or doubled, or no usable pair.
        NonFiniteError: features that are NaN or infinite.
    """
    images, texts, indices, bad, cut, first_cut = [], [], [], [], 0, ""
    with _evaluating(model) as device:
        for batch in together(_with_progress(data.batches(), "embedding pairs"), data.blank):
            with autocast():
                output = model(batch.first.to(device, non_blocking=True), batch.second.to(device, non_blocking=True))
            images.append(output["image_features"].cpu())
            texts.append(output["text_features"].cpu())
            indices.append(batch.indices)
            bad += batch.bad
            cut, first_cut = cut + batch.converted.get(LONG_CAPTION, 0), first_cut or batch.first_cut
            poll()
    if not images:  # a stream may have nothing for this process
        images, texts, indices = [torch.empty(0, 0)], [torch.empty(0, 0)], [torch.empty(0, dtype=torch.long)]
    parts = gather_object([(torch.cat(images), torch.cat(texts), torch.cat(indices), bad, cut, first_cut)])
    filled = [p for p in parts if len(p[0])]
    if not filled:
        raise DataError(f"evaluation: no usable pair; {describe_bad([sample for p in parts for sample in p[3]])}")
    image, text, rows = (torch.cat([p[side] for p in filled]) for side in range(3))
    keys = [data.key(i) for i in rows.tolist()] if int(rows.min()) >= 0 else []
    features = Embeddings(image, text, rows, [sample for p in parts for sample in p[3]], keys)
    refuse_not_finite(features.image, "image")
    refuse_not_finite(features.text, "text")
    n = len(features.image)
    if any(p[4] for p in parts):
        tell_cut(sum(p[4] for p in parts), n, next(p[5] for p in parts if p[4]))
    if data.num_samples >= 0 and n + len(features.bad) != data.num_samples:
        raise DataError(
            f"evaluation saw {n} + {len(features.bad)} bad samples of {data.num_samples}; {describe_bad(features.bad)}"
        )
    return features


@torch.no_grad()
def embed_texts(
    model: nn.Module,
    tokenize: Tokenizer,
    texts: Sequence[str],
    batch_size: int = 256,
    autocast: Autocast = nullcontext,
    label: str = "embedding texts",
) -> Tensor:
    """Embed texts, each different one once, sharded over the processes and gathered on each.

    Texts of like length share a batch, which a tokenizer that trims makes use of.

    Args:
        model: a ClipModel, or a wrapper around it with the same forward.
        tokenize: list of texts to int64 (n, L).
        texts: T of them.
        batch_size: texts of one forward pass in a process.
        autocast: context of the forward pass.
        label: of the progress bar.

    Returns:
        unit-norm (T, D) float32 on the CPU.

    Raises:
        NonFiniteError: features that are NaN or infinite.
    """
    place = Place.here()
    different = sorted(set(texts), key=lambda text: (len(text), text))
    mine = different[place.rank :: place.world]  # like lengths on every process
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    mine_embedded, cut = [], []
    with _evaluating(model) as device:
        for batch in together(_with_progress(batches, label), list[str]):
            tokens = tokenize(batch or different[:1])
            cut += too_long(tokenize, batch, tokens) if batch else []
            with autocast():
                mine_embedded.append(model(tokens=tokens.to(device))["text_features"][: len(batch)].float().cpu())
    parts = gather_object([torch.cat(mine_embedded)] if mine_embedded else [torch.empty(0, 0)])
    all_cut = gather_object([(len(cut), cut[0][:80])] if cut else [])
    if all_cut:
        tell_cut(sum(number for number, _ in all_cut), len(different), all_cut[0][1])
    rows = {
        text: row
        for rank, part in enumerate(parts)
        for text, row in zip(different[rank :: place.world], part, strict=True)
    }
    features = torch.stack([rows[text] for text in texts])
    refuse_not_finite(features, "text")
    return features


def refuse_not_finite(features: Tensor, modality: str) -> None:
    """Raise NonFiniteError if any of (N, D) features is NaN or infinite; the same on every process."""
    wrong = int((~features.isfinite().all(dim=1)).sum())
    if wrong:
        raise NonFiniteError(
            f"evaluation: the {modality} features of {wrong} of {len(features)} samples are not finite; "
            "the model's weights are damaged, or the precision is too low for them"
        )


def embed_prompts(
    model: nn.Module,
    tokenize: Tokenizer,
    prompts: Sequence[Sequence[str]],
    autocast: Autocast = nullcontext,
    batch_size: int = 256,
) -> list[Tensor]:
    """The features of the prompts of each class, unit-norm (P, D) float32 on the CPU; arguments as of embed_classes."""
    texts = [text for of_class in prompts for text in of_class]
    features = embed_texts(model, tokenize, texts, batch_size, autocast, "embedding prompts")
    return list(torch.split(features, [len(of_class) for of_class in prompts]))


def embed_classes(
    model: nn.Module,
    tokenize: Tokenizer,
    prompts: Sequence[Sequence[str]],
    autocast: Autocast = nullcontext,
    batch_size: int = 256,
) -> Tensor:
    """One direction for each class, see :func:`class_directions`.

    Args:
        model: a ClipModel, or a wrapper around it with the same forward.
        tokenize: list of texts to int64 (n, L).
        prompts: the prompts of each class.
        autocast: context of the forward pass.
        batch_size: prompts of one forward pass in a process.

    Returns:
        unit-norm (C, D) float32 on the CPU.
    """
    return class_directions(embed_prompts(model, tokenize, prompts, autocast, batch_size))


@torch.no_grad()
def embed_images(
    model: nn.Module,
    images: LabelledImages,
    transform: Transform,
    batch_size: int = 256,
    workers: int = 2,
    autocast: Autocast = nullcontext,
) -> Embeddings:
    """Embed every image once, sharded over the processes and gathered on each.

    Args:
        model: a ClipModel, or a wrapper around it with the same forward.
        images: what to embed.
        transform: uint8 (3, H, W) to uint8 (3, S, S), see :func:`build_eval_transform`.
        batch_size: images of one forward pass in a process.
        workers: loader processes.
        autocast: context of the forward pass.

    Raises:
        DataError: rows lost or doubled, or no usable image.
        NonFiniteError: features that are NaN or infinite.
    """
    place = Place.here()
    mine = range(len(images))[place.chunk(len(images))]
    loader = Loader(_Decoding(images, transform), workers, batch_size=batch_size, sampler=mine, collate_fn=_collate)
    blank = transform(torch.zeros((3, 8, 8), dtype=torch.uint8)).unsqueeze(0)
    mine_embedded: list[tuple[Tensor, Tensor, Tensor]] = []
    bad: list[BadSample] = []
    with _evaluating(model) as device:
        for indices, pixels, labels, missed in together(
            _with_progress(loader, "embedding images"), partial(_collate, [])
        ):
            bad += missed
            if len(indices) or place.world > 1:
                filled = pixels if len(indices) else blank
                with autocast():
                    features = model(images=filled.to(device, non_blocking=True))["image_features"].float().cpu()
                mine_embedded.append((features[: len(indices)], indices, labels))
    parts = gather_object([(mine_embedded, bad)])
    rows = [row for part, _ in parts for row in part if len(row[1])]
    bad = [sample for _, part in parts for sample in part]
    if not rows:
        raise DataError(f"none of {len(images)} images can be used; {describe_bad(bad)}")
    features, indices, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    refuse_not_finite(features, "image")
    if len(features) + len(bad) != len(images):
        raise DataError(f"evaluation saw {len(features)} + {len(bad)} bad images of {len(images)}")
    return Embeddings(features, features[:0], indices, bad, labels=labels)


class _Decoding(Dataset[tuple[int, Tensor, int] | BadSample]):
    def __init__(self, images: LabelledImages, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor, int] | BadSample:
        try:
            image, label = self.images.load(index)
        except BadSampleError as error:
            return BadSample(self.images.key(index), error.reason, str(error))
        return index, self.transform(image), label


def _collate(
    items: Sequence[tuple[int, Tensor, int] | BadSample],
) -> tuple[Tensor, Tensor, Tensor, list[BadSample]]:
    good = [item for item in items if not isinstance(item, BadSample)]
    pixels = torch.stack([image for _, image, _ in good]) if good else torch.empty(0)
    indices, labels = (torch.tensor([item[k] for item in good], dtype=torch.long) for k in (0, 2))
    return indices, pixels, labels, [item for item in items if isinstance(item, BadSample)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[torch.device]:
    """The model in evaluation mode, and its device."""
    training = model.training
    model.eval()
    try:
        yield next(model.parameters()).device
    finally:
        model.train(training)


def _with_progress(items: Iterable[T], label: str) -> Iterable[T]:
    """The items under a progress bar, on the main process's terminal."""
    console = Console(stderr=True)
    quiet = not (PartialState().is_main_process and console.is_terminal)
    return track(items, label, console=console, transient=True, disable=quiet)
