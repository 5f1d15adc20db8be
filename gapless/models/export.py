"""Models as folders that open_clip and clip_benchmark load with ``local-dir:``."""

import json
from collections.abc import Mapping
from pathlib import Path

import open_clip
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gapless.errors import DataError
from gapless.models.clip import SCALARS, ClipModel, Tokenizer

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


def save_export(
    model: ClipModel, tokenizer: Tokenizer, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write open_clip_config.json (architecture and preprocessing) and open_clip_model.safetensors.

    Args:
        model: whose architecture is stored.
        tokenizer: stored beside it if it has files of its own (Hugging Face tokenizers).
        folder: made if missing; files in it are replaced.
        state: weights of ``model.clip`` to store; None for the current ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.clip.state_dict() if state is None else state
    preprocess = {k: v for k, v in model.preprocess.items() if k in ("mean", "std", "interpolation", "resize_mode")}
    tree = {"model_cfg": model.model_config, "preprocess_cfg": preprocess}
    (folder / CONFIG).write_text(json.dumps(tree, indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors | {n: tensors[n].reshape([]) for n in SCALARS if n in tensors}, folder / WEIGHTS)
    hf_tokenizer = getattr(tokenizer, "tokenizer", None)
    if hf_tokenizer is not None:
        hf_tokenizer.save_pretrained(folder)


def load_export(folder: Path) -> tuple[ClipModel, Tokenizer]:
    """Load a folder that :func:`save_export` (or open_clip's hub format) wrote.

    Raises:
        DataError: files missing or not matching each other.
    """
    name = f"local-dir:{folder}"
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise DataError(f"{folder} has no {file}; gapless export RUN writes an export folder")
    try:
        clip = open_clip.create_model(name)
        architecture = open_clip.get_model_config(name)
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:160]}") from None
    return ClipModel(clip, architecture, open_clip.get_model_preprocess_cfg(clip)), open_clip.get_tokenizer(name)
