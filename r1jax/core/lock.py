"""A lock on a folder, so that only one process works in it; it names the owner.

In a file system it is a POSIX record lock on FOLDER/.lock, also over NFS. The
kernel or the NFS server releases it when its process ends, however that ends,
so it is never stale; child processes do not inherit it. gs:// and some network
file systems have no locks. There the owner increments a counter in the file
every 10 seconds. Another process that finds the file watches it for 45 seconds:
if the counter moves, the folder is in use; if not, the file is stale and is
taken over.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from typing import Any

from etils import epath

from r1jax.core import io

FILE = ".lock"
_BEAT = 10.0  # seconds between two increments of the counter
_STALE = 45.0  # seconds without an increment after which a file is stale
# Errors of a file system that has no locks.
_NONE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

# [file descriptor, number of `Lock`s that share it] by path: a record lock
# belongs to the whole process, which loses it with the first close of the file.
_open: dict[str, list[int]] = {}
os.register_at_fork(after_in_child=_open.clear)


class Lock:
  """Holds a folder until `release`, or until the process ends.

  A process may lock the same folder several times, as a notebook does after a
  cell was interrupted.
  """

  def __init__(self, folder: str | os.PathLike, name: str = ""):
    """Locks the folder, and creates it if it does not exist.

    Args:
      folder: local or gs://.
      name: what errors call it; by default its path.

    Raises:
      OSError: with errno EBUSY, another process holds it; the message names
        that process. With any other errno, the folder cannot be written.
    """
    self._path, self._process = epath.Path(folder) / FILE, os.getpid()
    self._name, self._made = name or os.fspath(folder), False
    self._beats: _Beats | None = None
    self._key: str | None = None
    if io.is_remote(folder):
      self._beats = _Beats(self._path)
      return
    try:
      self._made = not os.path.lexists(folder)
      epath.Path(folder).mkdir(parents=True, exist_ok=True)
      self._take()
    except OSError as error:
      if error.errno == errno.EBUSY:
        raise
      raise io.unwritten(name or self._path, error) from error

  def _take(self) -> None:
    key = os.path.realpath(self._path)
    if key not in _open:
      number = os.open(key, os.O_RDWR | os.O_CREAT, 0o666)
      try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError as error:
        os.close(number)
        if error.errno in (errno.EACCES, errno.EAGAIN):
          raise busy(self._name, owner(self._path)) from error
        if error.errno not in _NONE:
          raise
        self._beats = _Beats(self._path)
        return
      with contextlib.suppress(OSError):  # disk full: locked without a name
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps(us()).encode(), 0)
      _open[key] = [number, 0]
    _open[key][1] += 1
    self._key = key

  def check(self) -> None:
    """Raises OSError (EBUSY) if another process took the folder meanwhile.

    That can only happen where the file system has no locks, to a process that
    was suspended for so long that it seemed dead.
    """
    if self._beats and self._beats.other:
      raise busy(self._name, self._beats.other)

  def release(self) -> None:
    """Releases the lock; does nothing if repeated, or in a forked child.

    A folder that was made for it alone and is still empty is removed.
    """
    if os.getpid() != self._process:
      return
    if self._beats:
      self._beats.stop()
      self._beats = None
    key, self._key = self._key, None
    if key is None:
      return
    _open[key][1] -= 1
    if not _open[key][1]:
      number, _ = _open.pop(key)
      with contextlib.suppress(OSError):
        os.ftruncate(number, 0)
        if self._made and os.listdir(folder := os.path.dirname(key)) == [FILE]:
          os.unlink(key)
          os.rmdir(folder)
      os.close(number)

  def __enter__(self) -> Lock:
    return self

  def __exit__(self, *exception: object) -> None:
    self.release()

  def __del__(self) -> None:
    if os and getattr(self, "_process", None):
      self.release()


class _Beats:
  """A lock file whose counter grows while its process lives.

  Attributes:
    other: the process that has taken the folder over; None if none has.
  """

  def __init__(self, path: epath.Path):
    self._path, self._me = path, us() | {"token": uuid.uuid4().hex}
    self.other: dict[str, Any] | None = None
    self._over = threading.Event()
    _wait_until_stale(path)
    self._write(0)
    found = owner(path)  # two processes may take over the same stale file
    if found.get("token") != self._me["token"]:
      raise busy(path.parent, found)
    self._thread = threading.Thread(target=self._count, daemon=True)
    self._thread.start()

  def stop(self) -> None:
    """Removes the file, unless another process has taken it over."""
    self._over.set()
    self._thread.join(5.0)  # the store may not answer: do not wait for ever
    with contextlib.suppress(OSError, ValueError):
      if owner(self._path).get("token") == self._me["token"]:
        self._path.unlink(missing_ok=True)

  def _write(self, count: int) -> None:
    io.write_text(self._path, json.dumps(self._me | {"count": count}))

  def _count(self) -> None:
    count = 0
    while not self._over.wait(_BEAT):
      count += 1
      # A store that does not answer now may answer the next time.
      with contextlib.suppress(Exception):
        found = owner(self._path)
        if found and found.get("token") != self._me["token"]:
          self.other = found
          return
        self._write(count)


def _wait_until_stale(path: epath.Path) -> None:
  """Returns if the file is absent or stale; raises OSError if it is in use."""
  first = owner(path)
  if not first or _is_over(first):
    return
  logging.warning("%s says that %s uses this folder; watching for %.0f s"
                  " whether it still does", path, named(first), _STALE)
  until = time.monotonic() + _STALE
  while time.monotonic() < until:
    time.sleep(_STALE / 45)
    now = owner(path)
    if now != first:
      if not now:
        return
      raise busy(path.parent, now)


def _is_over(who: dict[str, Any]) -> bool:
  """Whether the process ran on this machine and is known to have ended."""
  if who.get("host") != socket.gethostname():
    return False
  if who.get("process") == os.getpid():
    return True  # a restarted container, or a lock that was never released
  try:
    os.kill(int(who.get("process", 0)), 0)
  except ProcessLookupError:
    return True
  except (OSError, ValueError):
    pass
  return False


def us() -> dict[str, Any]:
  """This process, as a lock file names it."""
  return {"process": os.getpid(), "host": socket.gethostname(),
          "command": os.path.basename(sys.argv[0] or "python"),
          "since": datetime.datetime.now().isoformat(" ", "seconds")}


def owner(path: epath.Path) -> dict[str, Any]:
  """The owner that the lock file names; {} if it names none."""
  try:
    found = json.loads(path.read_text() or "{}")
  except (FileNotFoundError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def named(who: dict[str, Any]) -> str:
  """The process that a lock file names, in words."""
  if not who:
    return "another process"
  return (f"process {who.get('process')} on {who.get('host')}"
          f" ({who.get('command')}, since {who.get('since')})")


def busy(folder: str | os.PathLike, who: dict[str, Any]) -> OSError:
  """The error of a command that finds a folder in use."""
  return OSError(
      errno.EBUSY, f"{folder} is in use by {named(who)}. Nothing was"
      " changed. Wait until it ends, or choose another folder. Processes of one"
      " job must be started together (README, Scale)")
