"""Features kept on disk, so that another task on the same images does not embed them again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gapless.data.samples import BadSample
from gapless.eval.embeddings import Embeddings
from gapless.models import ClipModel
from gapless.run_folder import write_whole


def weights_digest(model: ClipModel) -> str:
    """A hash of a model's weights and of how it prepares images."""
    digest = hashlib.blake2b(json.dumps(model.preprocess, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted(model.clip.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Image features by a hash of all that they depend on; within one evaluation they are in memory as well.

    Args:
        folder: where they lie; None keeps nothing on disk.
        model: a part of the hash, as every other argument of :meth:`images`.
    """

    def __init__(self, folder: Path | None, model: ClipModel) -> None:
        self.folder = folder
        self.digest = weights_digest(model) if folder else ""
        self.seen: dict[str, Embeddings] = {}

    def images(self, stamp: str, precision: str, compute: Callable[[], Embeddings]) -> Embeddings:
        """Features of images from the cache, or computed and kept; without keys.

        Args:
            stamp: of the data.
            precision: of the forward pass.
            compute: embeds them, on all processes.
        """
        if stamp not in self.seen:
            self.seen[stamp] = compute() if self.folder is None else self._kept(self.folder, stamp, precision, compute)
        return self.seen[stamp]

    def _kept(self, folder: Path, stamp: str, precision: str, compute: Callable[[], Embeddings]) -> Embeddings:
        key = hashlib.blake2b(f"{self.digest} {precision} {stamp}".encode(), digest_size=16).hexdigest()
        path = folder / f"{key}.safetensors"
        state = PartialState()
        state.wait_for_everyone()  # all look before one writes
        kept = _read(path)
        if kept is not None:
            return kept
        embedded = compute()
        if state.is_main_process:
            _write(path, embedded)
        return embedded


def _read(path: Path) -> Embeddings | None:
    try:
        with safe_open(path, "pt") as file:
            bad = [BadSample(*sample) for sample in json.loads(file.metadata()["bad"])]
            features, indices, labels = (file.get_tensor(name) for name in ("features", "positions", "labels"))
        if not features.isfinite().all():
            return None  # of a damaged model, by an older version: embedding says so
        return Embeddings(features, features[:0], indices, bad, labels=labels)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None  # not there, or cut short: it is computed


def _write(path: Path, embedded: Embeddings) -> None:
    tensors = {"features": embedded.image, "positions": embedded.indices, "labels": embedded.labels}
    with write_whole(path) as temporary:
        save_file(tensors, temporary, {"bad": json.dumps(embedded.bad)})
