"""The files of a Hugging Face checkpoint: reading parts, writing whole shards.

Files are mapped into memory, so that a part costs what it holds. FP8 matrices
come back as their values.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from r1jax.checkpoint import hf_source
from r1jax.core import io
from r1jax.core.config import check
from r1jax.ops import fp8

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SCALE = "_scale_inv"  # what the name of a FP8 weight's scales ends in

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": fp8.E4M3,
}
# A value is finite unless all these bits are set: the exponent, and in e4m3,
# which has no infinity, also the mantissa.
_NOT_FINITE = {"F32": 0x7f800000, "F16": 0x7c00, "BF16": 0x7f80,
               "F8_E4M3": 0x7f}


class Stored(NamedTuple):
  """Where a tensor lies.

  Attributes:
    file: name of its file.
    dtype: as safetensors names it.
    shape: of the tensor.
    offset: of its first byte in the file.
  """

  file: str
  dtype: str
  shape: tuple[int, ...]
  offset: int


class Folder:
  """The tensors of a folder, by name; nothing is read before `read`.

  `model.safetensors` if it is there, otherwise the files of the index, which
  decides which of them holds a tensor.
  """

  def __init__(self, folder: str | os.PathLike):
    """Reads the headers of all files.

    Raises:
      ValueError: no weights, a missing, truncated or foreign file, or an index
        that names a tensor that its file has not, or files elsewhere.
    """
    self.path = pathlib.Path(folder)
    self._maps: dict[str, np.ndarray] = {}
    self.tensors: dict[str, Stored] = {}
    if (self.path / ONE).is_file():
      self.tensors = _header(self.path, ONE)
      return
    check((self.path / INDEX).is_file(),
          f"{self.path} has neither {ONE} nor {INDEX}; give a (local) folder of"
          " a Hugging Face model in the safetensors format")
    index = io.read_json(self.path / INDEX)
    check(isinstance(index, dict)
          and isinstance(index.get("weight_map"), dict),
          f"{self.path / INDEX} has no weight_map; download it again")
    names = index["weight_map"]
    strange = [file for file in names.values() if not isinstance(file, str)
               or os.path.basename(file) != file or file in ("", ".", "..")]
    check(not strange, f"{self.path / INDEX} names {strange[:1]}, not a file in"
          " its own folder; download it again")
    headers = {}
    for file in sorted(set(names.values())):
      # Whoever opens a pipe waits for ever.
      check((self.path / file).is_file(),
            f"{self.path / INDEX} names {file}, which is not there as a file;"
            " download it into the same folder")
      headers[file] = _header(self.path, file)
    lost = [name for name, file in names.items() if name not in headers[file]]
    if lost:
      raise ValueError(
          f"{self.path / INDEX} says that {names[lost[0]]} holds {lost[0]}"
          f" ({len(lost)} such in all), which it does not; index and files are"
          " not of one model: download them again")
    self.tensors = {name: headers[file][name] for name, file in names.items()}

  def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
    """A part of a tensor, in its stored dtype; FP8 as float32 values.

    Args:
      name: of the tensor.
      index: one slice with start and stop for each dimension.

    Returns:
      An array that may be a view of the mapped file.

    Raises:
      ValueError: a value in the part is NaN or infinite.
    """
    part = self._part(name, index)
    if self.tensors[name].dtype != "F8_E4M3":
      return part
    scales = self._part(name + SCALE, None)
    return fp8.dequantise(part, scales, tuple(s.start for s in index))

  def _part(self, name, index):
    at = self.tensors[name]
    if at.file not in self._maps:
      self._maps[at.file] = np.memmap(self.path / at.file, np.uint8, "r")
    dtype = DTYPES[at.dtype]
    size = math.prod(at.shape) * dtype.itemsize
    whole = self._maps[at.file][at.offset:at.offset + size]
    part = np.asarray(whole).view(dtype).reshape(at.shape)
    if index is not None:
      part = part[tuple(index)]
    bits, mask = _bits(part), _NOT_FINITE[at.dtype]
    if np.any((bits & bits.dtype.type(mask)) == mask):
      raise ValueError(
          f"{name} in {self.path / at.file} has a value that is NaN or"
          " infinite; download or export the file again")
    return part


def place(target: np.ndarray, values: np.ndarray) -> None:
  """target[...] = values, cast; faster than NumPy's own for small floats."""
  # NumPy copies dtypes that are not its own one by one.
  _bits(target)[...] = _bits(values.astype(target.dtype, copy=False))


def contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """`array` cast, in C order, owning its memory."""
  made = np.empty(array.shape, dtype)
  place(made, array)
  return made


def _bits(array):
  return array.view(f"u{array.dtype.itemsize}")


def _header(folder: pathlib.Path, name: str) -> dict[str, Stored]:
  """What a file holds; the library checks it, NumPy maps it."""
  path = folder / name
  try:
    # Opening checks the header against the length of the file.
    with safetensors.safe_open(path, framework="numpy"):
      pass
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      header = json.loads(file.read(length))
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise ValueError(
        f"{path} is truncated or not a safetensors file ({error})"
        f"{hf_source.pointer_hint(path) or '; download or export it again'}"
    ) from error
  header.pop("__metadata__", None)
  return {key: Stored(name, at["dtype"], tuple(at["shape"]),
                       8 + length + at["data_offsets"][0])
          for key, at in header.items()}


class Planned(NamedTuple):
  """A tensor to be written: its name, dtype and shape."""

  name: str
  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    """Size of the tensor."""
    return math.prod(self.shape) * self.dtype.itemsize


def shards(plan: Iterable[Planned], shard_bytes: float) -> list[list[Planned]]:
  """The plan cut, in its order, into files of at most `shard_bytes`.

  A larger tensor has a file of its own.
  """
  files: list[list[Planned]] = []
  size = math.inf
  for tensor in plan:
    if size + tensor.nbytes > shard_bytes:
      files.append([])
      size = 0
    files[-1].append(tensor)
    size += tensor.nbytes
  return files


def write(folder: pathlib.Path, files: Sequence[Sequence[Planned]],
          tensors: Iterator[np.ndarray]) -> None:
  """Writes the shards, and the index if they are several.

  Args:
    folder: an existing one.
    files: what each holds, from `shards`.
    tensors: the arrays in the order of the plan; one file's at a time are held.

  Raises:
    OSError: the disk is full.
  """
  weight_map, total = {}, 0
  for number, planned in enumerate(files, 1):
    name = (ONE if len(files) == 1 else
            f"model-{number:05}-of-{len(files):05}.safetensors")
    held = {tensor.name: next(tensors) for tensor in planned}
    for tensor in planned:
      weight_map[tensor.name] = name
      total += tensor.nbytes
    try:
      # transformers refuses files that do not say which framework's they are.
      safetensors.numpy.save_file(held, folder / name, {"format": "pt"})
      # The library makes files that only their owner can read.
      os.chmod(folder / name, folder.stat().st_mode & 0o666)
    except safetensors.SafetensorError as error:
      full = "os error 28" in str(error)
      raise OSError(errno.ENOSPC if full else errno.EIO,
                    f"{name}: {error}") from error
  if len(files) > 1:
    io.write_json(folder / INDEX, {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(weight_map.items()))})


@contextlib.contextmanager
def whole(folder: str | os.PathLike, size: int) -> Iterator[pathlib.Path]:
  """A temporary folder that becomes `folder` when the block ends well.

  Args:
    folder: local; does not exist, or is empty.
    size: bytes that will be written, about.

  Raises:
    ValueError: it has files already.
    OSError: no space, or no right to write; nothing is left.
  """
  folder = pathlib.Path(os.path.abspath(folder))
  check(not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder} is in use already; choose another folder")
  part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
  try:
    part.mkdir(parents=True)
    if shutil.disk_usage(part).free < size:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    yield part
    part.rename(folder)
  except OSError as error:
    raise OSError(
        error.errno, f"could not write {folder}: {error.strerror or error};"
        " free some space or choose another folder") from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def write_extras(folder: pathlib.Path, fields: Mapping[str, Any],
                 extras: Mapping[str, bytes]) -> None:
  """config.json and further files, by name."""
  io.write_json(folder / "config.json", dict(fields))
  for name, content in extras.items():
    io.write_bytes(folder / name, content)
