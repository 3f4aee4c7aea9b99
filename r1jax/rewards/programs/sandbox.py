"""The sandbox (bubblewrap) in which programs that a model wrote are run.

A program inside has no network; of the host's files only a Python and its
libraries (read-only; numpy on request); none of the host's processes; no
environment; no privileges and no way to gain any; a filter on its system calls
(`seccomp`); and 16 MB of disk, in memory. It ends when its launcher ends.
harness.py, inside, limits what each process may use.

  python -m experiments.sandbox_check       tries to break out

Three pitfalls: The limit on processes does not apply to the host's root, so
root's sandboxes run as another user. `--clearenv` does not hide the launcher's
environment in bubblewrap's own process (/proc/1/environ), so bubblewrap is
started with an empty one. A program could create user namespaces in which it
has every capability, so that is disabled. The harness is the first process in
the sandbox, which no program inside can kill.

Needs Linux 5.14 and bubblewrap 0.8 or later. A sandbox dies with the thread
that started it, so start it in a thread that stays.
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

PACKAGES = ("numpy",)  # packages that a sandbox can have
INSIDE = "/packages"  # their folder in the sandbox
NOBODY = 65534  # user id of root's sandboxes
DISK = 16 << 20  # bytes of /tmp
START = 30.0  # seconds that a start may take on a busy machine
_MAX_LINE = 32 << 20  # most bytes of one reply


class SandboxError(OSError):
  """Programs cannot be run on this machine; the message says why."""


def check() -> None:
  """Checks that sandboxes start on this machine, once per process.

  Raises:
    SandboxError: they do not; the message says what to install or permit.
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
    packages: those of `PACKAGES` that programs may import.

  Raises:
    SandboxError: bubblewrap, a Python that a sandbox can use, or a package is
      missing.
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
  """Bubblewrap's arguments that make packages visible inside, read-only.

  The packages are those of this process, whose Python must have the version of
  the sandbox's.

  Raises:
    SandboxError: a package is unknown, not installed, installed for another
      version of Python, or not readable by the sandbox's user.
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
  """(path of a Python for the sandbox, bubblewrap's arguments to show it).

  It is the base Python of this process's virtual environment if the sandbox's
  user can read it, else the system's. (Root's sandboxes run as nobody, who
  cannot read a Python in /root.)

  Raises:
    SandboxError: the sandbox's user can read no Python.
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
  """Arguments for the interpreter, its library and the system's libraries."""
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
    if os.path.isdir(packages):  # hide installed packages
      shown += ["--size", "4096", "--tmpfs", packages, "--remount-ro", packages]
  return shown


def _readable(path: str) -> bool:
  """Whether the sandbox's user can read a file."""
  if _user() is None:
    return os.access(path, os.R_OK)
  try:
    return bool(os.stat(path).st_mode & stat.S_IROTH) and all(
        p.stat().st_mode & stat.S_IXOTH for p in pathlib.Path(path).parents)
  except OSError:
    return False


def _user() -> int | None:
  """The user id to start bubblewrap as; None for this process's."""
  return NOBODY if os.geteuid() == 0 else None


class Sandbox:
  """A started harness, for one request.

  Args:
    command: bubblewrap's command line, from `command`.
    environment: environment variables, which programs inside can read.
    stderr: as for `subprocess.Popen`.
    filtered: whether to filter system calls; False only to test the other
      protections.

  Attributes:
    said: after `close`, the text on standard error if that is a pipe.
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
    # Each start needs a file of its own for the filter.
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
      SandboxError: it does not start.
    """
    if self._ready:
      return
    try:
      started = self._line(time.monotonic() + START) == b"ready"
    except (EOFError, TimeoutError):
      started = False
    if started:
      self._find_inside()
    # It may have ended already.
    if not started or self._process.poll() is not None:
      raise SandboxError("a sandbox did not start")
    self._ready = True

  def _find_inside(self) -> None:
    """Notes the process to kill, before a program inside could interfere.

    Killing bubblewrap itself would orphan its child, which the first process of
    a container may never reap. Early in a start the child would not die at all,
    but wait for its parent for ever.
    """
    poll = select.poll()
    poll.register(self._info, select.POLLIN)
    told = b""
    while b"}" not in told and poll.poll(START * 1000):
      data = os.read(self._info, 1 << 12)
      if not data:
        return  # there is no child
      told += data
    with contextlib.suppress(ValueError, KeyError, OSError):
      self._inside = os.pidfd_open(json.loads(told)["child-pid"])

  def ask(self, request: Mapping[str, Any], until: float) -> None:
    """Sends the request, once.

    Args:
      request: JSON-serialisable, see harness.py.
      until: when to give up, as `time.monotonic()`.

    Raises:
      TimeoutError, EOFError: it could not be sent.
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
    """The next reply of the harness.

    Raises:
      TimeoutError: there was none until `until`.
      EOFError: the harness has ended.
      ValueError: the line is not from the harness.
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
    """Kills all processes of the sandbox and reaps the first."""
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
  """A pool of sandboxes that are started ahead of use.

  Each serves one program and is then ended, so programs cannot affect each
  other. While one runs, the next one starts.

  Args:
    spare: number of started sandboxes to keep ready.
    packages: those of `PACKAGES` that programs may import.
  """

  def __init__(self, spare: int = 2, packages: Sequence[str] = ()):
    check()
    self._command = command(packages)
    self._lock = threading.Lock()
    self._waiting: collections.deque[Sandbox] = collections.deque()
    self._spare = spare
    self._fill()

  def take(self) -> Sandbox:
    """A started sandbox, which the caller must close.

    Raises:
      SandboxError: no sandbox starts.
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
    """Ends the sandboxes that are waiting."""
    with self._lock:
      self._spare = 0
      while self._waiting:
        self._waiting.popleft().close()


def pool(packages: Sequence[str] = ()) -> Sandboxes:
  """This process's sandboxes, started at the first call.

  Args:
    packages: those of `PACKAGES` that programs may import.

  Raises:
    SandboxError: programs cannot be run here, or not with these packages.
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
