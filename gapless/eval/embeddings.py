"""Embeddings of evaluated pairs on disk, with the names of their pairs."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gapless.data.loader import EvalData
from gapless.errors import DataError
from gapless.eval.features import PairFeatures
from gapless.run_folder import write_whole


def save_pairs(features: PairFeatures, data: EvalData, path: Path) -> None:
    """Write features whole: tensors image, text and indices, and the pairs' keys where they have positions."""
    positions = features.indices.tolist()
    keys = [data.key(i) for i in positions] if min(positions) >= 0 else []
    tensors = {"image": features.image, "text": features.text, "indices": features.indices}
    with write_whole(path) as temporary:
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, {"keys": json.dumps(keys)})


def load_pairs(path: Path) -> tuple[PairFeatures, list[str]]:
    """Features that :func:`save_pairs` wrote, and the keys of their pairs (none for streams).

    Raises:
        DataError: the file is missing or broken.
    """
    try:
        with safe_open(path, "pt") as file:
            image, text, indices = (file.get_tensor(name) for name in ("image", "text", "indices"))
            return PairFeatures(image, text, indices, []), json.loads(file.metadata()["keys"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no embeddings that can be read ({error}); evaluate the run again") from None
