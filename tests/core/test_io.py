"""Files are written whole or not at all."""

import errno
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from r1jax.core import io

ROOT = pathlib.Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def public_dir():
  """A directory that any user can reach (pytest's own are private)."""
  with tempfile.TemporaryDirectory() as name:
    path = pathlib.Path(name)
    path.chmod(0o755)
    yield path
    path.chmod(0o755)


def names(path):
  return sorted(p.name for p in path.iterdir())


def test_round_trip_makes_folders_and_leaves_nothing_else(tmp_path):
  path = tmp_path / "a" / "b.json"
  for value in ({"x": [1, 2.5, None, "é"]}, {"x": 3}):
    io.write_json(path, value)
    assert io.read_json(path) == value
  assert names(path.parent) == ["b.json"]
  io.write_text(tmp_path / "t", "é\n")
  assert (tmp_path / "t").read_bytes() == "é\n".encode()


def test_bad_json_names_the_file(tmp_path):
  path = tmp_path / "cut.json"
  path.write_text('{"a": 1, ')
  with pytest.raises(ValueError, match="cut.json is not valid JSON.*line 1"):
    io.read_json(path)


@pytest.mark.parametrize("data,message", [
    (b"\xff{", "x.json is not valid JSON: 'utf-8' codec can't"),
    (b"[" * 99999, "x.json is not valid JSON: maximum recursion depth"),
    (b'{"a": 1%s}' % (b"0" * 5000), "x.json is not valid JSON: Exceeds the"),
    (b"version https://git-lfs.github.com/spec/v1\noid",
     "x.json is not valid JSON: .*; it is a pointer of git-lfs, .* lfs pull")])
def test_whatever_is_not_json_names_the_file(tmp_path, data, message):
  (tmp_path / "x.json").write_bytes(data)
  with pytest.raises(ValueError, match=message):
    io.read_json(tmp_path / "x.json")


def test_json_with_a_mark_of_byte_order(tmp_path):
  (tmp_path / "x.json").write_bytes('\ufeff{"a": "é"}'.encode())
  assert io.read_json(tmp_path / "x.json") == {"a": "é"}


def test_a_pipe_is_no_file_and_keeps_nobody_waiting(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "link").symlink_to("pipe")
  (tmp_path / "file").write_bytes(b"x")
  for name in ("pipe", "link"):
    assert not io.is_file(tmp_path / name)
    with pytest.raises(OSError, match="a pipe or a device, not a file"):
      io.read_bytes(tmp_path / name)
  with pytest.raises(IsADirectoryError):
    io.read_bytes(tmp_path)
  with pytest.raises(FileNotFoundError):
    io.read_bytes(tmp_path / "nothing")
  assert io.is_file(tmp_path / "file") and not io.is_file(tmp_path)
  assert io.read_bytes(tmp_path / "file") == b"x"


def test_read_only_folder(public_dir):
  path = public_dir / "f"
  path.write_bytes(b"old")
  public_dir.chmod(0o555)
  root = os.geteuid() == 0  # permissions do not bind root
  if root:
    os.seteuid(NOBODY)
  try:
    for target in (path, public_dir / "new" / "f"):
      with pytest.raises(PermissionError, match=f"could not write {target}"):
        io.write_bytes(target, b"new")
  finally:
    if root:
      os.seteuid(0)
  assert names(public_dir) == ["f"]
  assert path.read_bytes() == b"old"


def test_a_file_in_the_place_of_a_folder_and_the_other_way_round(tmp_path):
  (tmp_path / "file").write_bytes(b"mine")
  (tmp_path / "folder").mkdir()
  for name in ("file/x", "file/new/x"):
    with pytest.raises(OSError, match=f"could not write {tmp_path}/{name}: .*"
                       " a file has the name of one of its folders"):
      io.write_bytes(tmp_path / name, b"new")
  with pytest.raises(OSError, match="a folder has this name; choose another"):
    io.write_bytes(tmp_path / "folder", b"new")
  assert names(tmp_path) == ["file", "folder"]
  assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.fixture
def tiny_disk(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  mounted = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
      capture_output=True, text=True)
  if mounted.returncode:
    pytest.skip(f"may not mount a tmpfs: {mounted.stderr.strip()}")
  yield disk
  subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(tiny_disk):
  path = tiny_disk / "f"
  io.write_bytes(path, b"old")
  with pytest.raises(OSError, match="could not write.*free some space") as info:
    io.write_bytes(path, b"x" * 100_000)
  assert info.value.errno == errno.ENOSPC
  assert path.read_bytes() == b"old"
  assert names(tiny_disk) == ["f"]
  io.write_bytes(path, b"again")


def test_read_only_file_system(tiny_disk):
  path = tiny_disk / "f"
  io.write_bytes(path, b"old")
  remount = ["mount", "-o", "remount,ro", str(tiny_disk)]
  subprocess.run(remount, check=True)
  with pytest.raises(OSError, match="could not write") as info:
    io.write_bytes(path, b"new")
  assert info.value.errno == errno.EROFS
  assert path.read_bytes() == b"old"


def test_file_size_limit(tmp_path):
  """A failed write in the middle of the data, without privileges."""
  (tmp_path / "f").write_bytes(b"old")
  code = (
      "import resource, sys; from r1jax.core import io;"
      "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
      "io.write_bytes(sys.argv[1], b'x' * 100_000)")
  run = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / "f")], cwd=ROOT,
      capture_output=True, text=True, timeout=60)
  assert run.returncode == 1
  assert f"could not write {tmp_path / 'f'}: File too large" in run.stderr
  assert names(tmp_path) == ["f"]
  assert (tmp_path / "f").read_bytes() == b"old"
