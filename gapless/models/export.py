"""Models as folders that open_clip and clip_benchmark load with ``local-dir:``: written, and read from any writer."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.hf_model import HFTextEncoder
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapless.errors import DataError
from gapless.models.architecture import build_tokenizer, create_clip
from gapless.models.clip import SCALARS, ClipModel, Tokenizer
from gapless.models.fit import fit_weights
from gapless.models.twin import TWIN, load_twin
from gapless.models.weights import QUICK_GELU, line, read_weights
from gapless.run_folder import (
    CLIP_CONFIG,
    CLIP_WEIGHTS,
    OLD_AVERAGES_FILE,
    remove,
    write_text,
    write_whole,
    writing,
    written_into,
)

OTHER_WEIGHTS = (
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""What other programs call the weights in such a folder, in open_clip's order."""


def save_export(
    model: ClipModel, tokenizer: Tokenizer, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write open_clip_config.json (architecture and preprocessing) and open_clip_model.safetensors.

    The weights go first and come last: a folder whose writing was interrupted has none, and is no mix of two models.

    Args:
        model: whose architecture is stored.
        tokenizer: stored beside it if it has files of its own (Hugging Face tokenizers).
        folder: made if missing; files of these names are replaced, others stay.
        state: weights of ``model.clip`` to store; None for the current ones.

    Raises:
        DataError: a file cannot be written.
    """
    state = model.clip.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors |= {n: tensors[n].reshape([]) for n in SCALARS if n in tensors}
    with writing(folder):
        remove(folder / CLIP_WEIGHTS)
        write_text(folder / CLIP_CONFIG, json.dumps(model.export_config(), indent=2) + "\n")
    hf_tokenizer = getattr(tokenizer, "tokenizer", None)
    hf_tower = getattr(model.clip, "text", None)
    if hf_tokenizer is not None or isinstance(hf_tower, HFTextEncoder):
        with written_into(folder) as temporary:
            if hf_tokenizer is not None:
                hf_tokenizer.save_pretrained(temporary)
            if isinstance(hf_tower, HFTextEncoder):
                hf_tower.config.save_pretrained(temporary)  # the tower's own folder may be gone one day
    quick_gelu = json.dumps(bool(model.model_config.get(QUICK_GELU, False)))
    with write_whole(folder / CLIP_WEIGHTS) as temporary:
        save_file(tensors, temporary, {"format": "pt", QUICK_GELU: quick_gelu})


def load_export(folder: Path, custom_text: bool = False, **overrides: Any) -> tuple[ClipModel, Tokenizer]:
    """Load a folder that :func:`save_export` or open_clip wrote, or a snapshot of a repository in open_clip's format.

    Args:
        folder: with open_clip_config.json and weights.
        custom_text: whether the text tower is a module of its own.
        overrides: of the architecture's first level.

    Raises:
        DataError: files missing or not matching each other, or another program's folder.
    """
    tree = read_export_config(folder)
    path = find_weights(folder)
    architecture = _with_own_tower(tree["model_cfg"], folder)
    tokenizer = build_tokenizer(architecture, str(folder), folder)
    try:
        weights = read_weights(path)
        weights = replace(weights, tensors=with_old_averages(folder, weights.tensors))
        if TWIN in tree:
            return load_twin(architecture, tree.get("preprocess_cfg", {}), tree[TWIN], weights.tensors), tokenizer
        clip = create_clip(architecture, tree.get("preprocess_cfg"), custom_text, base_weights=False, **overrides)
    except DataError:
        raise
    except Exception as error:  # whatever open_clip raises at a configuration that it cannot build
        raise DataError(f"{folder} cannot be loaded: {type(error).__name__} {line(error)}") from None
    fit_weights(clip, weights, f"{folder / CLIP_CONFIG}")
    return ClipModel(clip, architecture | overrides, open_clip.get_model_preprocess_cfg(clip)), tokenizer


def with_old_averages(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that were measured: those of the model's file, or the averages that an old checkpoint has beside it.

    Raises:
        DataError: the averages cannot be read, or are of another model.
    """
    path = folder / OLD_AVERAGES_FILE
    try:
        averages = load_file(path) if path.is_file() else {}
        return {**weights, **{name: tensor.reshape(weights[name].shape) for name, tensor in averages.items()}}
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} does not fit the model beside it ({line(error)})") from None


def read_export_config(folder: Path) -> dict[str, Any]:
    """open_clip_config.json of a folder.

    Raises:
        DataError: it is missing or broken, or this is a folder of transformers or sentence-transformers.
    """
    path = folder / CLIP_CONFIG
    if not folder.is_dir():
        raise DataError(f"model.name: {folder} is no folder")
    if not path.is_file():
        other = _other_program(folder)
        raise DataError(other or f"{folder} has no {CLIP_CONFIG}; gapless export RUN writes an export folder")
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree["model_cfg"], dict) or not isinstance(tree.get("preprocess_cfg", {}), dict):
            raise TypeError("model_cfg and preprocess_cfg are mappings")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__} {line(error)}") from None
    return tree


def _other_program(folder: Path) -> str | None:
    """What a folder is that transformers or sentence-transformers wrote."""
    how = "gapless reads open_clip's format: docs/models.md shows how to convert it"
    if (folder / "modules.json").is_file() or (folder / "config_sentence_transformers.json").is_file():
        return f"{folder} is a model of sentence-transformers; {how}"
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"{folder} is a model of transformers ({kind}); {how}"


def find_weights(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        DataError: there is none.
    """
    for name in (CLIP_WEIGHTS, *OTHER_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} has no {CLIP_WEIGHTS} (nor {', '.join(OTHER_WEIGHTS[:2])}); if an export was interrupted, "
        "gapless export RUN writes it again"
    )


def _with_own_tower(architecture: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The architecture whose text tower of transformers is described in the folder, if its own place is gone."""
    text = architecture.get("text_cfg", {})
    named = text.get("hf_model_name")
    if named and Path(named).is_absolute() and not Path(named).is_dir() and (folder / "config.json").is_file():
        return architecture | {"text_cfg": text | {"hf_model_name": str(folder.resolve())}}
    return architecture
