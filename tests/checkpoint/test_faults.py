"""Every error on restoring: what it says, and that it changes nothing."""

import errno
import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import faults, manager
from r1jax.sharding import processes
from tests.processes import ROOT

LIKE = {"x": jnp.zeros((300, 300)), "half": jnp.zeros((7, 3), jnp.bfloat16)}
# Copies and remains that Orbax writes and this reads never.
UNREAD = ("commit_success.txt", "_CHECKPOINT_METADATA")
# What would make somebody throw a good checkpoint away.
ADVICE = re.compile(r"\brm\b|delete|remove|damaged: files", re.IGNORECASE)


def state(step):
  return {"x": jax.random.normal(jax.random.key(step), (300, 300)),
          "half": jnp.full((7, 3), step, jnp.bfloat16)}


def saved(folder):
  m = manager.Manager(folder, best_metric="pass1")
  for step in (1, 2):
    m.save(step, state(step), {"step": step}, metrics={"pass1": step})
  m.close()


def restored(folder):
  m = manager.Manager(folder, best_metric="pass1")
  try:
    return m.restore(like=LIKE)
  finally:
    m.close()


def contents(folder):
  return {path: path.read_bytes() for path in folder.rglob("*")
          if path.is_file()}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
  """Orbax leaves reads unawaited when one fails; they are no news here."""
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
  yield
  gc.collect()


@pytest.mark.parametrize("harm", ["cut", "emptied", "missing"])
def test_a_damaged_checkpoint_is_never_taken(tmp_path, harm):
  saved(tmp_path)
  damaged = set()
  for path in sorted((tmp_path / "2").rglob("*")):
    if not path.is_file() or path.name in UNREAD:
      continue
    data = path.read_bytes()
    path.unlink()
    if harm != "missing":
      path.write_bytes(data[:len(data) // 2] if harm == "cut" else b"")
    before = contents(tmp_path)
    try:
      arrays, host = restored(tmp_path)
      np.testing.assert_array_equal(arrays["x"], state(2)["x"])
      assert host == {"step": 2}
    except faults.Unusable as error:
      damaged.add(path.parent.name if len(path.name) > 20 else path.name)
      assert error.folder == tmp_path / "2"
      assert re.fullmatch(
          rf"checkpoint {tmp_path}/2 is damaged: files are missing or truncated"
          r" \(.+\)\. It was not changed\. If it is a copy, copy it again\. The"
          r" same command with --skip_damaged moves it aside and resumes after"
          r" step 1\.", str(error), re.DOTALL)
    assert contents(tmp_path) == before
    path.write_bytes(data)
  # Which of them Orbax can do without differs between cut and missing.
  assert {"_METADATA", "manifest.ocdbt", "metadata", "d"} <= damaged
  np.testing.assert_array_equal(restored(tmp_path)[0]["x"], state(2)["x"])


def gcsfs_error(code):
  error = RuntimeError("backend error")
  error.code = code
  return error


def nested(error):
  """As Orbax raises what it meets while it reads an array."""
  outer = Exception("Encountered error while reading array index: (slice(0))")
  outer.__cause__ = error
  return outer


TENSORSTORE = ('Error opening "zarr" driver: Error reading "x/.zarray" in OCDBT'
               " database at gs://bucket/run/checkpoints/2/arrays/: ")
MEMORY = ("memory ran out", "free memory on this machine and its devices, or"
          " split the model over more of them")
PERMISSION = "permission denied", "let this user read all of it"
STORAGE = "the storage did not answer", "wait until the storage works"
INJECTED = {
    "host memory": (MemoryError("cannot allocate"), MEMORY),
    "device memory": (jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes."), MEMORY),
    "no memory for a read": (OSError(errno.ENOMEM, "Cannot allocate memory"),
                             MEMORY),
    "permission": (PermissionError(errno.EACCES, "Permission denied"),
                   PERMISSION),
    "permission of an object": (ValueError(
        f"PERMISSION_DENIED: {TENSORSTORE}HTTP response code: 403"),
        PERMISSION),
    "a bucket's 403": (gcsfs_error(403), PERMISSION),
    "503 in TensorStore": (ValueError(
        f"UNAVAILABLE: {TENSORSTORE}HTTP response code: 503"), STORAGE),
    "503 of an array": (nested(ValueError(
        f"UNAVAILABLE: {TENSORSTORE}HTTP response code: 503")), STORAGE),
    "503 in gcsfs": (gcsfs_error(503), STORAGE),
    "too late": (ValueError(f"DEADLINE_EXCEEDED: {TENSORSTORE}"), STORAGE),
    "timeout": (TimeoutError("timed out"), STORAGE),
    "connection": (ConnectionResetError(errno.ECONNRESET, "reset"), STORAGE),
    "a disk": (OSError(errno.EIO, "Input/output error"),
               ("Input/output error", "fix that")),
    "a disk in TensorStore": (nested(ValueError(
        f"INTERNAL: {TENSORSTORE}I/O error [os_error_code='5']")),
        ("Input/output error", "fix that")),
    "a bug": (AttributeError("no attribute 'tree'"),
              ("AttributeError: no attribute 'tree'", "fix that")),
}


@pytest.mark.parametrize("name", INJECTED)
def test_what_passes_is_not_called_damage(tmp_path, name):
  error, (reason, remedy) = INJECTED[name]
  saved(tmp_path)
  before = contents(tmp_path)
  m = manager.Manager(tmp_path)

  def fail(*args, **kwargs):
    raise error

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(m._orbax, "restore", fail)
    with pytest.raises(OSError) as caught:
      m.restore(like=LIKE)
  text = caught.value.strerror
  assert text.startswith(
      f"could not read checkpoint {tmp_path}/2: {reason}"), text
  assert text.endswith(
      f". It was not changed and need not be damaged: {remedy},"
      " then run the same command to resume from it."), text
  assert not ADVICE.search(text)
  assert contents(tmp_path) == before
  arrays, host = m.restore(like=LIKE)  # it has passed
  np.testing.assert_array_equal(arrays["x"], state(2)["x"])
  assert host == {"step": 2}
  m.close()


def test_a_listing_that_fails_says_so(tmp_path, monkeypatch):
  saved(tmp_path)
  before = contents(tmp_path)

  def fail(*args, **kwargs):
    raise gcsfs_error(503)

  monkeypatch.setattr(manager.ocp, "CheckpointManager", fail)
  with pytest.raises(OSError) as caught:
    manager.Manager(tmp_path)
  assert caught.value.strerror == (
      f"could not open checkpoints at {tmp_path}: the storage did not answer"
      " (RuntimeError: backend error); nothing was changed: wait until it"
      " works, then run the same command again")
  assert contents(tmp_path) == before


UNREADABLE = textwrap.dedent("""
    import os, pathlib, sys
    from tests.checkpoint import test_faults
    folder, name = map(pathlib.Path, sys.argv[1:])
    sys.unraisablehook = lambda unraisable: None
    test_faults.restored(folder)  # imports what this user may read
    path = folder / "2" / name
    mode = path.stat().st_mode
    path.chmod(0)
    if os.geteuid() == 0:  # whom no mode stops
      os.seteuid(65534)
    try:
      test_faults.restored(folder)
    except OSError as error:
      print(error)
    else:
      print("restored")
    if os.getuid() == 0:
      os.seteuid(0)
    path.chmod(mode)
    test_faults.restored(folder)
""")


@pytest.mark.parametrize("name", [
    "arrays", "arrays/_METADATA", "arrays/d", "host", "metrics/metrics"])
def test_files_that_this_user_may_not_read(name):
  """Also those that look missing, because their folder cannot be entered."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix="r1jax.", dir="/tmp"))
  try:
    folder.chmod(0o777)
    saved(folder)
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, folder, name], cwd=ROOT, text=True,
        capture_output=True, check=False, env=os.environ | {
            "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    assert "ermission denied" in done.stdout and not ADVICE.search(done.stdout)
    assert "nothing was changed" in done.stdout or "not changed" in done.stdout
  finally:
    shutil.rmtree(folder)


def test_a_checkpoint_that_another_process_removes_meanwhile(
    tmp_path, monkeypatch):
  saved(tmp_path)
  m = manager.Manager(tmp_path, read_only=True)
  shutil.rmtree(tmp_path / "2")
  with pytest.raises(OSError, match="could not read checkpoint .*/2: No such"):
    m.restore(2, like=LIKE)
  m.close()


@pytest.mark.parametrize("error", [
    faults.Unusable(pathlib.Path("run/2"), "it is cut", "Copy it again."),
    OSError(errno.ENOMEM, "memory ran out")])
def test_all_processes_raise_what_one_has_met(monkeypatch, error):
  """Or those that could read would wait for it for ever."""
  told = []

  def gather(value):
    told.append(value)
    return [None, told[0]]

  monkeypatch.setattr(processes, "gather", gather)
  for mine in (error, None):  # who met it, and another
    with pytest.raises(type(error)) as caught:
      faults.together(mine)
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "folder", None) == getattr(
        error, "folder", None)
  told[:] = [None]
  faults.together(None)
