"""Turns errors while reading a checkpoint into a reason and a remedy.

A checkpoint is damaged only if files of it are missing or truncated. Running
out of memory, a missing permission or a storage that does not answer are
temporary errors that say nothing about the checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zipfile
from collections.abc import Iterator

from etils import epath

from r1jax.core import io
from r1jax.sharding import processes

_DAMAGE = (FileNotFoundError, EOFError, UnicodeDecodeError, zipfile.BadZipFile,
           json.JSONDecodeError)
# From TensorStore's messages; all its errors are ValueErrors.
_DAMAGE_TEXT = re.compile(
    r"(NOT_FOUND|DATA_LOSS|OUT_OF_RANGE): |Not enough data|Invalid JSON")
_STATUS = re.compile(r"([A-Z]{2}[A-Z_]+): ")
_MEMORY = "memory ran out"
_PERMISSION = "permission denied"
_STORAGE = "the storage did not answer"
_REMEDY = {
    _MEMORY: "free memory on this machine and its devices, or split the model"
             " over more of them",
    _PERMISSION: "let this user read all of it",
    _STORAGE: "wait until the storage works",
    "": "fix that"}
_BY_STATUS = {
    "RESOURCE_EXHAUSTED": _MEMORY,
    "PERMISSION_DENIED": _PERMISSION, "UNAUTHENTICATED": _PERMISSION,
    "UNAVAILABLE": _STORAGE, "DEADLINE_EXCEEDED": _STORAGE,
    "ABORTED": _STORAGE, "CANCELLED": _STORAGE,
    401: _PERMISSION, 403: _PERMISSION, 408: _STORAGE, 429: _STORAGE,
    500: _STORAGE, 502: _STORAGE, 503: _STORAGE, 504: _STORAGE}
_BY_NUMBER = {
    errno.ENOMEM: _MEMORY, errno.EACCES: _PERMISSION, errno.EPERM: _PERMISSION,
    errno.ETIMEDOUT: _STORAGE, errno.ECONNRESET: _STORAGE,
    errno.ECONNREFUSED: _STORAGE, errno.EHOSTUNREACH: _STORAGE}
_BY_TYPE = ((MemoryError, _MEMORY), (PermissionError, _PERMISSION),
            (TimeoutError, _STORAGE), (ConnectionError, _STORAGE))


class Unusable(ValueError):
  """A checkpoint that cannot be used, in general because it is damaged.

  Attributes:
    folder: what to move aside to continue without it; it was not changed.
    reason: a sentence without its full stop.
    remedy: what to do, one or more sentences.
  """

  def __init__(self, folder: epath.Path, reason: str, remedy: str) -> None:
    super().__init__(f"{reason}. It was not changed. {remedy}")
    self.folder, self.reason, self.remedy = folder, reason, remedy


def reading(error: Exception, folder: epath.Path, instead: str
            ) -> Unusable | OSError:
  """The error to raise when reading a checkpoint failed.

  Args:
    error: the original error.
    folder: of the checkpoint.
    instead: what the run does without it, such as "resumes after step 4".

  Returns:
    Unusable if files are missing or truncated, else an OSError that names the
    reason. Both say that nothing was changed.
  """
  kind, cause = _kind(error)
  if kind is None:
    hidden = _hidden(folder)
    if hidden is None:
      return Unusable(
          folder, f"checkpoint {folder} is damaged: files are missing or"
          f" truncated ({brief(cause)})", "If it is a copy, copy it again. The"
          " same command with --skip_damaged moves it aside and"
          f" {instead}.")
    kind, cause = _kind(hidden)
  return OSError(
      number(cause) or errno.EIO,
      f"could not read checkpoint {folder}: {_said(kind, cause)}. It was not"
      " changed and need not be damaged:"
      f" {_REMEDY[kind or '']}, then run the same command to resume from it.")


def opening(error: Exception, directory: epath.Path) -> OSError:
  """The error to raise when the checkpoints of a run could not be listed."""
  kind, cause = _kind(error)
  remedy = ("wait until it works, then run the same command again"
            if kind == _STORAGE else "choose a --workdir that can be written")
  return OSError(
      number(cause) or errno.EIO, f"could not open checkpoints at {directory}:"
      f" {_said(kind, cause)}; nothing was changed: {remedy}")


def together(error: Unusable | OSError | None) -> None:
  """Raises the error of one process in all processes.

  All processes must call it after reading. So none waits for one that failed,
  and all can continue without that checkpoint.

  Args:
    error: from `reading`, or None if this process succeeded.
  """
  told = None
  if isinstance(error, Unusable):
    told = [None, str(error.folder), error.reason, error.remedy]
  elif error is not None:
    told = [error.errno, error.strerror]
  failed = [failure for failure in processes.gather(told) if failure]
  if error is not None:
    raise error
  for system, *words in failed:
    raise (OSError(system, *words) if system
           else Unusable(epath.Path(words[0]), *words[1:]))


def number(error: BaseException) -> int | None:
  """The errno of an error, also of TensorStore's; None without one."""
  if isinstance(error, OSError) and error.errno:
    return error.errno
  match = re.search(r"os_error_code='(\d+)'", str(error))
  return int(match[1]) if match else None


def brief(error: BaseException) -> str:
  """The error on one line, of at most 200 characters."""
  system = number(error)
  if system is not None:
    name = getattr(error, "filename", None)
    return os.strerror(system) + (f": {name}" if name else "")
  text = str(error).partition(" [tensorstore_spec")[0]
  return " ".join(f"{type(error).__name__}: {text}".split())[:200]


def _said(kind: str | None, cause: BaseException) -> str:
  return f"{kind} ({brief(cause)})" if kind else brief(cause)


def _kind(error: BaseException) -> tuple[str | None, BaseException]:
  """(None for damage, else a key of `_REMEDY`; the error that decided it).

  The outermost error in the chain of causes that is recognised decides.
  """
  for cause in _chain(error):
    kind = _reason(cause)
    if kind:
      return kind, cause
    if isinstance(cause, _DAMAGE) or _DAMAGE_TEXT.search(str(cause)):
      return None, cause
    if number(cause):
      return "", cause
  return "", error


def _reason(error: BaseException) -> str | None:
  for type_, kind in _BY_TYPE:
    if isinstance(error, type_):
      return kind
  status = _STATUS.match(str(error))
  code = getattr(error, "code", None) or getattr(error, "status", None)
  return (_BY_NUMBER.get(number(error))
          or (_BY_STATUS.get(status[1]) if status else None)
          or (_BY_STATUS.get(code) if isinstance(code, int) else None))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or (
        None if error.__suppress_context__ else error.__context__)


def _hidden(folder: epath.Path) -> OSError | None:
  """The error when the folder's files are opened; None if all can be read.

  Orbax reports files without read permission as missing.
  """
  if io.is_remote(folder):
    return None

  def stop(error):
    raise error

  try:
    if not folder.exists():
      return OSError(errno.ENOENT, "its folder has gone", str(folder))
    for at, _, names in os.walk(folder, onerror=stop):
      for name in names:
        with open(os.path.join(at, name), "rb"):
          pass
  except OSError as error:
    return error
  return None
