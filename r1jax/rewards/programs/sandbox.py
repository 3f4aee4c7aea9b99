"""The sandbox in which programs that a model wrote run: bubblewrap.

A program in here has no network, none of the host's files but a Python and its
libraries (read-only; numpy where it is asked for), none of its processes, no
environment, no privileges and no way to new ones, a filter on its system calls
(`seccomp`), 16 MB of disk that is memory, and ends when its launcher does. What
a process may use is limited inside, by harness.py.

  python -m experiments.sandbox_check       tries to break out

Three things that are easily missed: the limit on processes does not hold for a
host's root, so root's sandboxes run as another user; `--clearenv` does not hide
the launcher's environment where bubblewrap's own process keeps it (it may be
read in /proc/1/environ), so bubblewrap is started with an empty one; and a
program could make user namespaces of its own, in which it has every capability.
The harness is the first process in there, which no program inside can kill.

Needs Linux 5.14 and bubblewrap 0.8 or later. A sandbox dies with the thread
that started it, so start them in threads that stay.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import secrets
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.rewards.programs import boot, seccomp

PACKAGES = ("numpy",)  # what a sandbox can have beside the standard library
INSIDE = "/packages"  # where harness.py looks for them
NOBODY = 65534  # the user of root's sandboxes
DISK = 16 << 20  # bytes of /tmp
START = 30.0  # seconds that a start may take on a loaded machine
_MAX_LINE = 32 << 20  # bytes of one reply


class SandboxError(OSError):
  """Programs cannot be run here; the message says what is missing."""


def check() -> None:
  """Makes sure, once a process, that a sandbox runs a program.

  Raises:
    SandboxError: it does not; the message says what to install or permit.
  """
  if problem := _problem():
    raise SandboxError(problem)


@functools.cache
def _problem() -> str:
  try:
    with contextlib.closing(
        Sandbox(command(), stderr=subprocess.PIPE)) as box:
      try:
        box.ready()
      except SandboxError:
        box.close()
        said = box.said.strip()
        return f"bubblewrap could not start a sandbox: {said}. {_remedy(said)}"
  except (SandboxError, OSError) as error:
    return str(error)
  return ""


def _remedy(said: str) -> str:
  if "nknown option" in said:
    return "Version 0.8 or later of bubblewrap is needed (Debian 12 has it)."
  if "namespace" in said or "uid map" in said or "ermission" in said or (
      "not permitted" in said):
    return (
        "It needs user namespaces; as root: sysctl user.max_user_namespaces="
        "10000; on Debian 10 sysctl kernel.unprivileged_userns_clone=1; on"
        " Ubuntu 24.04 sysctl kernel.apparmor_restrict_unprivileged_userns=0;"
        " in Docker --security-opt seccomp=unconfined --security-opt"
        " apparmor=unconfined --security-opt systempaths=unconfined.")
  return "`python -m experiments.sandbox_check` shows more."


def command(packages: Sequence[str] = ()) -> list[str]:
  """The command line of a sandbox.

  Args:
    packages: of `PACKAGES`, that programs may import beside the standard
      library.

  Raises:
    SandboxError: there is no bubblewrap, no Python that a sandbox can use, or
      no such package for it.
    OSError: that Python does not run.
  """
  bwrap = shutil.which("bwrap")
  if bwrap is None:
    raise SandboxError(
        "code rewards run programs in bubblewrap, and there is no `bwrap`;"
        " install it: apt-get install bubblewrap (Debian, Ubuntu), dnf install"
        " bubblewrap (Fedora)")
  python, files = interpreter()
  return [
      bwrap, "--unshare-all", "--unshare-user", "--disable-userns",
      "--die-with-parent", "--new-session", "--as-pid-1", *files,
      "--dev-bind", "/dev/null", "/dev/null",
      "--dev-bind", "/dev/zero", "/dev/zero",
      "--dev-bind", "/dev/urandom", "/dev/urandom",
      "--symlink", "/proc/self/fd", "/dev/fd",
      *(piece for n, name in enumerate(("stdin", "stdout", "stderr"))
        for piece in ("--symlink", f"/proc/self/fd/{n}", f"/dev/{name}")),
      *shown(packages),
      "--proc", "/proc", "--size", str(DISK), "--tmpfs", "/tmp",
      "--chdir", "/tmp", "--remount-ro", "/", "--", *boot.command(python)]


def shown(packages: Sequence[str]) -> list[str]:
  """Bubblewrap's arguments that show packages inside, read-only.

  They are those of this process, which must run the sandbox's Python.

  Raises:
    SandboxError: a package is not known, not installed, made for another
      Python, or not readable by the sandbox's user.
  """
  arguments = []
  for name in packages:
    if name not in PACKAGES:
      raise SandboxError(f"package {name!r}: a sandbox can have"
                         f" {', '.join(PACKAGES)}")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
      raise SandboxError(
          f"programs may use {name}, and it is not installed; pip install"
          f" {name}, or leave it out of the reference's packages")
    if not _same_python():
      raise SandboxError(
          f"{name} is installed for Python {sys.version_info.major}."
          f"{sys.version_info.minor}, and sandboxes run {interpreter()[0]}")
    if not _readable(spec.origin):
      raise SandboxError(
          f"user {_user() or os.getuid()} cannot read {spec.origin}; make it"
          " readable to everybody")
    folder = pathlib.Path(spec.origin).parent
    for path in (folder, folder.with_name(f"{name}.libs")):
      if path.is_dir():
        arguments += ["--ro-bind", str(path), f"{INSIDE}/{path.name}"]
  return arguments


def _same_python() -> bool:
  version = f"python{sys.version_info.major}.{sys.version_info.minor}"
  return os.path.basename(interpreter()[0]) == version


@functools.cache
def interpreter() -> tuple[str, tuple[str, ...]]:
  """A Python for the sandbox, and bubblewrap's arguments to show it inside.

  This process's own (the one that its virtual environment is made from) where
  the sandbox's user can read it, else the system's: root's sandboxes run as
  nobody, who cannot read a Python in /root.

  Raises:
    SandboxError: no Python that the sandbox's user can read.
  """
  version = f"python{sys.version_info.major}.{sys.version_info.minor}"
  tried = [os.path.join(sys.base_prefix, "bin", version),
           "/usr/bin/python3", "/usr/local/bin/python3"]
  for path in map(os.path.realpath, tried):
    prefix = os.path.dirname(os.path.dirname(path))
    name = os.path.basename(path)
    library = os.path.join(prefix, "lib", name)
    if _readable(path) and _readable(os.path.join(library, "os.py")):
      return path, tuple(_files(path, prefix, library))
  raise SandboxError(
      f"no Python that user {_user() or os.getuid()} can read: tried"
      f" {', '.join(tried)}; install one (apt-get install python3) or make one"
      " of these readable to everybody")


def _files(path: str, prefix: str, library: str) -> list[str]:
  """Read-only: the interpreter, its library and the system's libraries."""
  shown = ["--ro-bind", path, path]
  for folder in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
    if os.path.islink(folder):
      shown += ["--symlink", os.readlink(folder), folder]
    elif os.path.isdir(folder):
      shown += ["--ro-bind", folder, folder]
  shown += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
  if prefix != "/usr":
    folder = os.path.join(prefix, "lib")
    shown += ["--ro-bind", folder, folder]
    packages = os.path.join(library, "site-packages")
    if os.path.isdir(packages):  # what is installed there is none of its affair
      shown += ["--size", "4096", "--tmpfs", packages, "--remount-ro", packages]
  return shown


def _readable(path: str) -> bool:
  """Whether the sandbox's user can read a file (and so reach it)."""
  if _user() is None:
    return os.access(path, os.R_OK)
  try:
    return bool(os.stat(path).st_mode & stat.S_IROTH) and all(
        p.stat().st_mode & stat.S_IXOTH for p in pathlib.Path(path).parents)
  except OSError:
    return False


def _user() -> int | None:
  """Who to become before bubblewrap starts; None to stay who we are."""
  return NOBODY if os.geteuid() == 0 else None


class Sandbox:
  """One started harness, for one request.

  Args:
    command: bubblewrap's command line, as `command` makes it.
    environment: of the process; anything in it can be read inside.
    stderr: as `subprocess.Popen` takes it.
    filtered: whether system calls are filtered; False only to try what else
      holds.

  Attributes:
    said: after `close`, what was written on a `stderr` that is a pipe.
  """

  said = ""

  def __init__(self, command: Sequence[str], *,
               environment: Mapping[str, str] | None = None,
               stderr: int = subprocess.DEVNULL, filtered: bool = True):
    self._closed = False
    self._buffer = bytearray()
    self._nonce = secrets.token_hex(8)
    self._ready = False
    self._inside: int | None = None  # pidfd of bubblewrap's child
    self._info, told = os.pipe()
    shared = [told]
    options = ["--info-fd", str(told)]
    # Every start reads a file of its own.
    if filtered and (rules := seccomp.program()):
      shared.append(os.memfd_create("seccomp"))
      os.write(shared[1], rules)
      os.lseek(shared[1], 0, os.SEEK_SET)
      options += ["--seccomp", str(shared[1])]
    command = [command[0], *options, *command[1:]]
    user = _user()
    drop = {} if user is None else dict(
        user=user, group=user, extra_groups=[])
    try:
      self._process = subprocess.Popen(
          command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
          stderr=stderr, bufsize=0, env=dict(environment or {}), cwd="/",
          pass_fds=shared, **drop)
    except BaseException:
      os.close(self._info)
      raise
    finally:
      for descriptor in shared:
        os.close(descriptor)
    os.set_blocking(self._process.stdin.fileno(), False)

  def ready(self) -> None:
    """Waits until the harness has started.

    Raises:
      SandboxError: it has not.
    """
    if self._ready:
      return
    try:
      started = self._line(time.monotonic() + START) == b"ready"
    except (EOFError, TimeoutError):
      started = False
    if started:
      self._find_inside()
    # It may also have ended since.
    if not started or self._process.poll() is not None:
      raise SandboxError("a sandbox did not start")
    self._ready = True

  def _find_inside(self) -> None:
    """Notes whom to kill, while no program is in there to say otherwise.

    Killing bubblewrap itself would leave its child to the system's first
    process, which in a container may never reap it; and early in a start the
    child would not die at all, but wait for its parent for ever.
    """
    poll = select.poll()
    poll.register(self._info, select.POLLIN)
    told = b""
    while b"}" not in told and poll.poll(START * 1000):
      data = os.read(self._info, 1 << 12)
      if not data:
        return  # there never was a child
      told += data
    with contextlib.suppress(ValueError, KeyError, OSError):
      self._inside = os.pidfd_open(json.loads(told)["child-pid"])

  def ask(self, request: Mapping[str, Any], until: float) -> None:
    """Sends the request, once.

    Args:
      request: JSON-ready; see harness.py.
      until: when to give up, by `time.monotonic`.

    Raises:
      TimeoutError, EOFError: it was not taken.
    """
    self.send({"nonce": self._nonce, **request}, until)

  def send(self, value: Any, until: float) -> None:
    """Sends a line of JSON; raises as `ask`."""
    data = memoryview(json.dumps(value).encode() + b"\n")
    poll = select.poll()
    poll.register(self._process.stdin, select.POLLOUT)
    while data:
      if not poll.poll(_milliseconds(until)):
        raise TimeoutError
      try:
        data = data[os.write(self._process.stdin.fileno(), data):]
      except BlockingIOError:  # room for less than a page
        continue
      except BrokenPipeError:
        raise EOFError from None

  def reply(self, until: float) -> dict[str, Any]:
    """The next line of the harness.

    Raises:
      TimeoutError: none came in time.
      EOFError: the harness has ended.
      ValueError: something else than the harness wrote it.
    """
    line = self._line(until)
    if not line.startswith(self._nonce.encode()):
      raise ValueError("a reply without the nonce")
    try:
      value = json.loads(line[len(self._nonce):])
    except RecursionError:
      raise ValueError("a reply that is nested too deep") from None
    if not isinstance(value, dict):
      raise ValueError("a reply that is no object")
    return value

  def _line(self, until: float) -> bytes:
    poll = select.poll()
    poll.register(self._process.stdout, select.POLLIN)
    scanned = 0
    while (end := self._buffer.find(b"\n", scanned)) < 0:
      scanned = len(self._buffer)
      if scanned > _MAX_LINE:
        raise ValueError("a reply without end")
      if not poll.poll(_milliseconds(until)):
        raise TimeoutError
      data = os.read(self._process.stdout.fileno(), 1 << 16)
      if not data:
        raise EOFError
      self._buffer += data
    line = bytes(self._buffer[:end])
    del self._buffer[:end + 1]
    return line

  def close(self) -> None:
    """Ends it and all that runs in it, and reaps the process."""
    if self._closed:
      return
    self._closed = True
    if not self._ready:
      self._find_inside()
    if self._inside is not None:
      with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(self._inside, signal.SIGKILL)
      os.close(self._inside)
    else:
      self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()
    if self._process.stderr is not None:
      with self._process.stderr as stream:
        self.said = stream.read(1 << 16).decode(errors="replace")
    os.close(self._info)


class Sandboxes:
  """Sandboxes that have started before they are needed.

  Each serves one program and is then ended: nothing is left for the next. While
  one runs, the next one starts.

  Args:
    spare: how many wait.
    packages: of `PACKAGES`, that programs may import.
  """

  def __init__(self, spare: int = 2, packages: Sequence[str] = ()):
    check()
    self._command = command(packages)
    self._lock = threading.Lock()
    self._waiting: collections.deque[Sandbox] = collections.deque()
    self._spare = spare
    self._fill()

  def take(self) -> Sandbox:
    """A sandbox that has started; the caller closes it.

    Raises:
      SandboxError: none starts.
    """
    while (box := self._next()) is not None:
      try:
        box.ready()
        break
      except SandboxError:  # it died while it waited
        box.close()
    else:
      box = Sandbox(self._command)
      try:
        box.ready()
      except SandboxError:
        box.close()
        raise
    self._fill()
    return box

  def _next(self) -> Sandbox | None:
    with self._lock:
      return self._waiting.popleft() if self._waiting else None

  def _fill(self) -> None:
    with self._lock, contextlib.suppress(OSError):  # `take` tries again
      while len(self._waiting) < self._spare:
        self._waiting.append(Sandbox(self._command))

  def close(self) -> None:
    """Ends those that wait."""
    with self._lock:
      self._spare = 0
      while self._waiting:
        self._waiting.popleft().close()


def pool(packages: Sequence[str] = ()) -> Sandboxes:
  """The sandboxes of this process, started when they are first asked for.

  Args:
    packages: of `PACKAGES`, that programs may import.

  Raises:
    SandboxError: programs cannot be run here (`check`), or not with these.
  """
  return _pool(os.getpid(), tuple(sorted({*packages})))


@functools.cache
def _pool(pid: int, packages: tuple[str, ...]) -> Sandboxes:
  # By process: a fork must not share its parent's sandboxes.
  del pid
  sandboxes = Sandboxes(packages=packages)
  atexit.register(sandboxes.close)
  return sandboxes


def _milliseconds(until: float) -> float:
  return max(0.0, until - time.monotonic()) * 1000
