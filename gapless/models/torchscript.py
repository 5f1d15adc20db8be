"""The tensors of a TorchScript archive, the form in which OpenAI published CLIP, without loading its code."""

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_NUMBERS = ("input_resolution", "context_length", "vocab_size")
"""Sizes that OpenAI stored as tensors among the weights."""


def is_torchscript(names: Sequence[str]) -> bool:
    """Whether a zip archive with such members is one of TorchScript."""
    return any(name.endswith("/constants.pkl") for name in names)


def read_torchscript(path: Path) -> tuple[dict[str, Tensor], bool]:
    """State dict of the archived module, and whether it was traced with QuickGELU.

    Raises:
        ValueError, KeyError, RuntimeError: the archive is damaged, or holds what no module does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
            with archive.open(f"{root}data.pkl") as file:
                module = _Reader(file, lambda key: archive.read(f"{root}data/{key}")).load()
            code = (name for name in names if name.startswith(f"{root}code/") and name.endswith(".py"))
            # OpenAI's activation is x * sigmoid(1.702 x); archives of open_clip's own models call torch.gelu.
            quick_gelu = not any(b"torch.gelu(" in archive.read(name) for name in code)
    except (pickle.UnpicklingError, zipfile.BadZipFile, StopIteration, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None
    return {n: t for n, t in _tensors(module) if n not in _NUMBERS and not n.endswith("attn_mask")}, quick_gelu


class _Module:
    """Stands for every class of the archive: it keeps what the class's objects held."""


class _Reader(pickle.Unpickler):
    """Knows modules, tensors and plain containers; anything else is refused before it is called."""

    def __init__(self, file: Any, read: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self.read = read

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return type(name.rpartition(".")[2], (_Module,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":  # typed lists and dicts, which hold no weights
            return lambda *parts: parts
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        data = bytearray(self.read(str(key)))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
