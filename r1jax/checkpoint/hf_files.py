"""Files of a Hugging Face checkpoint: reads parts of tensors, writes shards.

Files are memory-mapped, so reading a part costs only that part. FP8 matrices
are dequantised.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import mmap
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from r1jax.core import io, lock
from r1jax.core.config import check
from r1jax.core.lock import Lock
from r1jax.ops import fp8

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SCALE = "_scale_inv"  # suffix of the name of an FP8 weight's scales

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": fp8.E4M3,
}
# A value is not finite if all these bits are set: the exponent, and in e4m3,
# which has no infinity, also the mantissa.
_NOT_FINITE = {"F32": 0x7f800000, "F16": 0x7c00, "BF16": 0x7f80,
               "F8_E4M3": 0x7f}


class Stored(NamedTuple):
  """Where a tensor is stored.

  Attributes:
    file: name of its file.
    dtype: safetensors' name of it.
    shape: of the tensor.
    offset: of its first byte in the file.
  """

  file: str
  dtype: str
  shape: tuple[int, ...]
  offset: int

  @property
  def nbytes(self) -> int:
    """Size of the tensor."""
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Folder:
  """The tensors of a folder; values are read by `read` only.

  They are those of `model.safetensors` if it exists, otherwise those of the
  index.
  """

  def __init__(self, folder: str | os.PathLike):
    """Reads the headers of all files.

    Raises:
      ValueError: there are no weights; a file is missing, truncated or not in
        the safetensors format; or the index names files outside of the folder
        or tensors that a file lacks.
    """
    self.path = pathlib.Path(folder)
    self._maps: dict[str, mmap.mmap] = {}
    self.tensors: dict[str, Stored] = {}
    if (self.path / ONE).is_file():
      self.tensors = _header(self.path, ONE)
      return
    check((self.path / INDEX).is_file(), f"{self.path} has neither {ONE} nor"
          f" {INDEX}; {_instead(self.path)}")
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
      # Must be a regular file: opening a pipe would block for ever.
      check((self.path / file).is_file(),
            f"{self.path / INDEX} names {file}, which is not a file there;"
            " download it into the same folder")
      headers[file] = _header(self.path, file)
    lost = [name for name, file in names.items() if name not in headers[file]]
    if lost:
      raise ValueError(
          f"{self.path / INDEX} says that {names[lost[0]]} holds {lost[0]}"
          f" (and {len(lost) - 1} more), which it does not; index and files are"
          " not of the same model: download them again")
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

  def forget(self, name: str) -> None:
    """Gives up the memory of a tensor that was read; it can be read again.

    The pages of a mapped file count as memory of the process that read them
    until another one needs their space.

    Args:
      name: of the tensor; nothing may be a view of it any more.
    """
    at = self.tensors[name]
    if at.file in self._maps and hasattr(mmap, "MADV_DONTNEED"):
      first = at.offset - at.offset % mmap.PAGESIZE
      self._maps[at.file].madvise(
          mmap.MADV_DONTNEED, first, at.offset + at.nbytes - first)

  def _part(self, name, index):
    at = self.tensors[name]
    if at.file not in self._maps:
      with open(self.path / at.file, "rb") as file:
        self._maps[at.file] = mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ)
    dtype = DTYPES[at.dtype]
    part = np.frombuffer(self._maps[at.file], np.uint8, at.nbytes, at.offset)
    part = part.view(dtype).reshape(at.shape)
    if index is not None:
      part = part[tuple(index)]
    bits, mask = _bits(part), _NOT_FINITE[at.dtype]
    if np.any((bits & bits.dtype.type(mask)) == mask):
      raise ValueError(
          f"{name} in {self.path / at.file} has a value that is NaN or"
          " infinite; download or export the file again")
    return part


def place(target: np.ndarray, values: np.ndarray) -> None:
  """target[...] = values, cast to its dtype; fast for bfloat16 and FP8 too."""
  # NumPy copies elements of foreign dtypes one by one, so copy their bits.
  _bits(target)[...] = _bits(values.astype(target.dtype, copy=False))


def contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """A copy of `array` in another dtype, in C order."""
  made = np.empty(array.shape, dtype)
  place(made, array)
  return made


def _instead(folder: pathlib.Path) -> str:
  """What to do about a folder without weights that can be read."""
  if parts := sorted(folder.glob("*.safetensors")):
    return (f"{parts[0].name} is there: download the index too, or, if it is"
            f" the only file of the model, rename it to {ONE}")
  if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
    return ("its weights are PyTorch's pickles, which are not read; convert"
            " them with transformers: AutoModelForCausalLM.from_pretrained(DIR)"
            ".save_pretrained(NEW)")
  return ("give a (local) folder of a Hugging Face model in the safetensors"
          " format")


def _bits(array):
  return array.view(f"u{array.dtype.itemsize}")


def _header(folder: pathlib.Path, name: str) -> dict[str, Stored]:
  """The tensors of a file, from its header, which safetensors validates."""
  path = folder / name
  try:
    # Opening compares the header with the length of the file.
    with safetensors.safe_open(path, framework="numpy"):
      pass
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      header = json.loads(file.read(length))
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    with open(path, "rb") as file:
      hint = io.pointer_hint(file.read(99)) or "; download or export it again"
    raise ValueError(f"{path} is truncated or not a safetensors file ({error})"
                     f"{hint}") from error
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
  """Splits the plan, in order, into files of at most `shard_bytes` bytes.

  A tensor that is larger gets a file of its own.
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
  """Writes the shards, and an index if there are several.

  Args:
    folder: an existing folder.
    files: the tensors of each file, from `shards`.
    tensors: the arrays in the order of the plan; those of one file are held in
      memory at a time.

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
      # transformers refuses files without this metadata.
      safetensors.numpy.save_file(held, folder / name, {"format": "pt"})
      # safetensors creates files that only their owner can read.
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
  """A temporary folder that is renamed to `folder` if the block succeeds.

  It is locked, so that two processes never write the same folder, and what a
  killed one has left in it is removed.

  Args:
    folder: local; must not exist or must be empty.
    size: number of bytes that will be written, approximately.

  Raises:
    ValueError: the folder has files.
    OSError: another process writes it (EBUSY); no space or no permission to
      write; the temporary folder is removed.
  """
  folder = pathlib.Path(os.path.abspath(folder))
  part = part_of(folder)
  with Lock(part, os.fspath(folder)):
    try:
      check(not folder.exists() or (
          folder.is_dir() and not any(folder.iterdir())),
            f"{folder} is in use already; choose another folder")
      for left in part.iterdir():
        if left.name != lock.FILE:
          shutil.rmtree(left) if left.is_dir() else left.unlink()
      if shutil.disk_usage(part).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      yield part
      (part / lock.FILE).unlink()
      part.rename(folder)
    except OSError as error:
      raise io.unwritten(folder, error) from error
    finally:
      shutil.rmtree(part, ignore_errors=True)


def part_of(folder: str | os.PathLike) -> pathlib.Path:
  """The temporary folder in which `whole` writes `folder`."""
  folder = pathlib.Path(os.path.abspath(folder))
  return folder.with_name(f".{folder.name}.part")


def write_extras(folder: pathlib.Path, fields: Mapping[str, Any],
                 extras: Mapping[str, bytes]) -> None:
  """Writes config.json and further files.

  Args:
    folder: an existing folder.
    fields: of config.json.
    extras: {file name: content}.
  """
  io.write_json(folder / "config.json", dict(fields))
  for name, content in extras.items():
    io.write_bytes(folder / name, content)
