"""Models as folders that open_clip and clip_benchmark load with ``local-dir:``."""

import json
from collections.abc import Mapping
from pathlib import Path

import open_clip
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapless.errors import DataError
from gapless.models.clip import SCALARS, ClipModel, Tokenizer
from gapless.models.twin import TWIN, load_twin

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
    (folder / CONFIG).write_text(json.dumps(model.export_config(), indent=2) + "\n")
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
        tree = json.loads((folder / CONFIG).read_text())
        if TWIN in tree:
            return load_twin(folder, tree[TWIN], load_file(folder / WEIGHTS)), open_clip.get_tokenizer(name)
        clip = open_clip.create_model(name)
        architecture = open_clip.get_model_config(name)
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:160]}") from None
    return ClipModel(clip, architecture, open_clip.get_model_preprocess_cfg(clip)), open_clip.get_tokenizer(name)
