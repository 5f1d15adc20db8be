"""Arrays on disk, whose sizes are known from their headers before anything is read."""

import math
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.lib import format as numpy_format
from safetensors import safe_open

from gapless.errors import DataError

npy: Any = numpy_format
"""numpy's public reader of headers, which has no types."""
ENDINGS = (".npy", ".npz", ".safetensors")
_NUMPY_OF = {"F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool"} | {
    f"{letter}{bits}": f"{kind}{bits}" for letter, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}
"""safetensors' names of what numpy has; narrower floats are read as float32."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, before it is read."""

    path: Path
    member: str
    """Its name in a file of several; empty for .npy."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """What :meth:`read` gives."""

    def read(self, rows: Any = None) -> np.ndarray[Any, Any]:
        """The array, or some of its rows.

        Args:
            rows: integers; None for all. Of a .npy file only these are read.

        Raises:
            DataError: it needs more memory than is free, or the file is damaged.
        """
        whole = self.path.suffix != ".npy" or rows is None
        check_memory(self.path, (math.prod(self.shape) if whole else len(rows) * math.prod(self.shape[1:])), self.dtype)
        with _named(self.path):
            if self.path.suffix == ".safetensors":
                with safe_open(self.path, "pt") as file:
                    tensor = file.get_tensor(self.member)
                array = (tensor if str(self.dtype) in str(tensor.dtype) else tensor.float()).numpy()
            elif self.path.suffix == ".npz":
                with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.member}.npy") as part:
                    array = npy.read_array(part, allow_pickle=False)
            else:
                # Read where it lies: it may be larger than memory.
                array = np.load(self.path, allow_pickle=False, mmap_mode="r")
            return array if rows is None else array[rows]


def check_memory(path: Path, items: int, dtype: np.dtype[Any], hint: str = "") -> None:
    """Compare what an array needs with the memory that is free.

    Raises:
        DataError: it needs more; the message names the file.
    """
    need, free = items * dtype.itemsize, psutil.virtual_memory().available
    if need > free:
        raise DataError(f"{path} needs {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free{hint}")


def find_arrays(path: Path) -> dict[str, StoredArray]:
    """The arrays of a .npy, .npz or .safetensors file by name (.npy: one without a name); nothing is read but headers.

    Raises:
        DataError: the file is missing, no regular file, damaged, or holds Python objects.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(
            f"{path} is not there" if isinstance(error, FileNotFoundError) else f"{path}: {error}"
        ) from None
    if stat.S_ISDIR(mode):
        parts = sorted(part.name for part in path.glob("*.npy"))
        contents = f" of {len(parts)} parts, {parts[0]} ...; join them with numpy.concatenate" if parts else ""
        raise DataError(f"{path} is a folder{contents}; one file ({', '.join(ENDINGS)}) is read")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is no regular file")
    with _named(path):
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:  # torch's way would ask for the memory of the whole file
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                return {
                    name: StoredArray(
                        path, name, tuple(s.get_shape()), np.dtype(_NUMPY_OF.get(s.get_dtype(), "float32"))
                    )
                    for name, s in slices.items()
                }
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
                arrays = {}
                for name in names:
                    with archive.open(f"{name}.npy") as part:
                        arrays[name] = StoredArray(path, name, *_header(part)[:2])
                return arrays
        with path.open("rb") as file:
            shape, dtype, start = _header(file)
        if start + math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise ValueError(f"it is cut: its header says {shape} of {dtype}")
        return {"": StoredArray(path, "", shape, dtype)}


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and offset of the data of a .npy stream."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format is not known")
    # Versions differ in the width of a length and in the encoding of names, which numbers have none of.
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        raise ValueError(f"its header says the shape {shape}")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    return shape, dtype, file.tell()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """One line that names the file, whatever its readers raise on damaged ones."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        kind = path.suffix if path.suffix in ENDINGS else " or ".join(ENDINGS)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"{path} is not a {kind} file of numbers ({reason})") from error
