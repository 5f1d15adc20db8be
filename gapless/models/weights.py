"""Files of weights: what a file is, and its tensors, without running anything that the file may ask for."""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gapless.errors import DataError
from gapless.models.torchscript import is_torchscript, read_torchscript
from gapless.run_folder import CLIP_CONFIG

QUICK_GELU = "quick_gelu"
"""Key of the metadata of weights, as in open_clip's configurations: the activation that they were trained with."""
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save wrote first, before its files were zip archives."""
_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS, fetch the file itself with git lfs pull",
    b"<": "is a web page or XML, not the weights: the download got an answer of the site",
    b"{": "is JSON text, not weights",
    b"\x1f\x8b": "is a gzip archive, unpack it first",
    b"\x89HDF": "is an HDF5 file, weights of Keras are not read",
    b"GGUF": "is a GGUF file, quantised weights are not read",
}
_FOREIGN = {
    "vision_model.": "transformers' CLIP, whose names differ from open_clip's (docs/models.md converts it)",
    "text_model.": "transformers' CLIP, whose names differ from open_clip's (docs/models.md converts it)",
    "decoder.transformer.": "a captioner",
    "clip_project.": "a captioner of ClipCap",
    "mapper.": "a captioner",
}
"""Beginnings of the names of other programs' weights, and what those are."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, and what is known of them."""

    path: Path
    tensors: dict[str, Tensor]
    quick_gelu: bool | None = None
    """Whether they were trained with QuickGELU; None where nothing says it."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """open_clip's preprocess_cfg beside the file."""
    big_vision: bool = False
    """Whether the file is NumPy's archive of big_vision, whose arrays are not read here."""


def read_weights(path: Path, big_vision: bool = False) -> Weights:
    """Read weights that safetensors, torch.save or OpenAI (a TorchScript archive) wrote, whatever the file's ending.

    Args:
        path: of the file.
        big_vision: whether NumPy's archives will do, which open_clip reads into a model itself.

    Raises:
        DataError: one line that says what the file is.
    """
    kind = kind_of(path)
    try:
        if kind == "safetensors":
            tensors, metadata = _read_safetensors(path)
        elif kind == "torchscript":
            tensors, traced = read_torchscript(path)
            metadata = {QUICK_GELU: json.dumps(traced)}
        elif kind == "torch":
            tensors, metadata = _read_torch(path)
        elif big_vision:
            return Weights(path, {}, quick_gelu=False, big_vision=True)
        else:
            raise DataError(
                f"{path} is an archive of NumPy arrays (big_vision), give it with open_clip's name of the model"
            )
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is cut or damaged, copy or download it again ({line(error)})") from None
    beside = _config_beside(path)
    quick_gelu = {"true": True, "false": False}.get(metadata.get(QUICK_GELU, ""))
    if quick_gelu is None and beside:
        quick_gelu = bool(beside["model_cfg"].get(QUICK_GELU, False))
    return Weights(path, _without_prefix(tensors), quick_gelu, beside.get("preprocess_cfg", {}))


def kind_of(path: Path) -> str:
    """``safetensors``, ``torch`` or ``torchscript``, by what the file holds.

    Raises:
        DataError: it is something else.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise DataError(f"{path} is empty")
    if head[8:9] == b"{" and not head.startswith(b"PK"):
        return "safetensors"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head.startswith(_LEGACY):
        return "torch"
    for beginning, kind in _BEGINNINGS.items():
        if head.lstrip().startswith(beginning):
            raise DataError(f"{path} {kind}")
    if head.startswith(b"\x80"):
        what = "features of ClipCap or CapDec" if b"clip_embedding" in head else "Python objects"
        raise DataError(f"{path} is a pickle ({what}), not weights, and pickles are not run")
    raise DataError(f"{path} holds no weights that are known (safetensors, torch.save, OpenAI's TorchScript)")


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise DataError(f"{path} is a cut or damaged archive, copy or download it again") from None
    if is_torchscript(names):
        return "torchscript"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "big_vision"
    raise DataError(f"{path} is a zip archive of other files, not weights")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict of what torch.save wrote; in a training checkpoint the model's part of it."""
    try:
        # Mapped where the format allows it: checking a file is cheap, and loading it needs its memory once.
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"Python objects ({named[1]})" if named else "Python objects"
        raise DataError(
            f"{path} holds {what}, as torch.save(model) writes them, and is not read since that would run code; "
            "save model.state_dict() instead"
        ) from None
    metadata = {}
    if isinstance(tree, Mapping):
        # Runs of open_clip name the model in theirs.
        named = re.search(r"model_(.+?)-lr_", str(tree.get("name", "")))
        config = open_clip.get_model_config(named[1]) if named else None
        if config:
            metadata[QUICK_GELU] = json.dumps(bool(config.get(QUICK_GELU, False)))
        tree = next((tree[k] for k in ("state_dict", "model_state_dict", "model") if k in tree), tree)
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(v, Tensor) for v in tree.values()):
        keys = f" (it holds {', '.join(map(str, list(tree)[:4]))})" if isinstance(tree, Mapping) and tree else ""
        raise DataError(f"{path} is no state dict: not every entry is a tensor{keys}")
    return {str(name): tensor for name, tensor in tree.items()}, metadata


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers for many processes and compilers put before every name."""
    named = dict(tensors)
    for prefix in ("module.", "_orig_mod."):
        if named and all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _config_beside(path: Path) -> dict[str, Any]:
    """open_clip's configuration in the same folder, if it is one."""
    try:
        tree = json.loads((path.parent / CLIP_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) and isinstance(tree.get("model_cfg"), dict) else {}


def foreign(names: Mapping[str, Any]) -> str | None:
    """Which other program's weights have such names, or None."""
    for beginning, program in _FOREIGN.items():
        if any(name.startswith(beginning) for name in names):
            return program
    return None


def line(error: Exception) -> str:
    """The first words of an error that may be long."""
    return " ".join(str(error).split())[:160]
