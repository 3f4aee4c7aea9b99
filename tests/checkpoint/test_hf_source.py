"""What people give for a model's folder, and what they are told."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import huggingface_hub
import pytest

from r1jax.checkpoint import hf_files, hf_source
from r1jax.stages import weights
from tests import hub

ROOT = pathlib.Path(__file__).parents[2]


def model(folder):
  folder.mkdir(parents=True)
  (folder / "config.json").write_text("{}")
  return folder


def cache(folder):
  """(root, folder of a model, snapshot) of huggingface_hub's cache."""
  inside = folder / "hub" / "models--Qwen--Qwen2.5-0.5B"
  return folder, inside, model(inside / "snapshots" / "060db6499f32fa")


def test_a_folder_is_taken_as_it_is(tmp_path):
  assert hf_source.folder(str(model(tmp_path / "m"))) == str(tmp_path / "m")


def test_everything_else_has_a_hint_of_its_own(tmp_path):
  root, inside, snapshot = cache(tmp_path / "cache")
  whole = model(tmp_path / "m")
  for name in ("model.safetensors", "m.gguf"):
    (whole / name).touch()
  for name, file in (("adapter", "adapter_config.json"), ("gguf", "a.gguf"),
                     ("empty", "x.bin")):
    (tmp_path / name).mkdir()
    (tmp_path / name / file).touch()
  os.mkfifo(tmp_path / "empty" / "config.json")
  for given, hint in {
      root: f"is the cache of .* as {inside}/snapshots/",
      root / "hub": f"is the cache of .* as {inside}/snapshots/",
      inside: f"in the cache of .* the snapshot in it: {snapshot}",
      whole / "model.safetensors": f"is not a folder; .*: {whole}$",
      tmp_path / "empty" / "x.bin": "is not a folder; .* the safetensors$",
      whole / "m.gguf": "GGUF is not supported; convert it with transformers",
      tmp_path / "gguf": "GGUF is not supported",
      tmp_path / "adapter": "an adapter without its base model",
      tmp_path / "empty": "has no config.json; give the folder",
      tmp_path / "no" / "where" / "x": "does not exist; give the local folder",
      "./Qwen/x": "does not exist",
      "Qwen/Q-0.5B": "no folder here; .*import_hf --from=Qwen/Q-0.5B --download"
  }.items():
    with pytest.raises(ValueError, match=hint):
      hf_source.folder(str(given))
    with pytest.raises(ValueError, match=hint):
      weights.config_of(f"hf:{given}")
    with pytest.raises(ValueError, match=hint):
      weights.with_tokenizer(f"hf:{given}")


@pytest.mark.parametrize("name,hint", [
    ("pytorch_model.bin", "are PyTorch's pickles, which are not read; convert"),
    ("model-00001-of-00001.safetensors", "is there: download the index too, or")
])
def test_a_folder_with_other_weights(tmp_path, name, hint):
  (model(tmp_path / "m") / name).touch()
  with pytest.raises(ValueError, match=f"has neither .*{hint}"):
    hf_files.Folder(tmp_path / "m")


# The package reads the environment when it is imported.
FETCH = """
import json, sys
from r1jax.checkpoint import hf_source
for name in sys.argv[1:]:
  try:
    print(json.dumps([hf_source.folder(name, True), ""]))
  except ValueError as error:
    print(json.dumps(["", str(error)]))
"""


def fetched(cache, url, *names):
  """(folder, "") or ("", message) of each name."""
  done = subprocess.run(
      [sys.executable, "-c", FETCH, *names], capture_output=True, text=True,
      cwd=ROOT, env=os.environ | {
          "HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_TOKEN": "",
          "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
  assert done.returncode == 0, done.stderr
  return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_repository_is_fetched_or_the_reason_is_said(tmp_path):
  """By the real package, from a stand-in of huggingface.co."""
  source = model(tmp_path / "source")
  for name in ("model.safetensors", "tokenizer.json", "model.bin", "x.py",
               "consolidated.safetensors"):
    (source / name).write_bytes(name.encode() * 99)
  names = ("ok", "none", "private", "gated", "bare", "adapter", "cut", "down")
  with hub.serving(source) as server:
    (path, _), *refused = fetched(
        tmp_path / "hf", server.url, *(f"org/{name}" for name in names))
  assert {file.name: file.read_bytes() for file in pathlib.Path(
      path).iterdir()} == {name: (source / name).read_bytes() for name in (
          "config.json", "model.safetensors", "tokenizer.json")}
  page = re.escape(server.url)
  for (path, said), hint in zip(refused, (
      f"there is no {page}/org/none, or it is private; check the name, or log",
      f"there is no {page}/org/private, or it is private; .*hf auth login",
      f"it is gated; accept its conditions at {page}/org/gated, then log in",
      f"org/bare has no safetensors at {page}/org/bare; take another upload",
      "org/adapter was downloaded: .* an adapter without its base model",
      f"{page} does not answer as expected .*hf download org/cut",
      f"{page} does not answer as expected .*hf download org/down"),
      strict=True):
    assert not path and re.search(hint, said), said
    assert "\n" not in said
  # Nobody answers now: what is whole in the cache is taken.
  (path, _), (_, cut), (_, none) = fetched(
      tmp_path / "hf", server.url, "org/ok", "org/cut", "org/other")
  assert (pathlib.Path(path) / "model.safetensors").exists()
  assert "only a part of it is in the cache" in cut
  assert f"{server.url} cannot be reached (" in none


def test_ctrl_c_does_not_wait_for_a_download(tmp_path):
  """The package itself would, for gigabytes."""
  source = model(tmp_path / "source")
  (source / "model.safetensors").write_bytes(b"x" * 999)
  # A suite in the background has Ctrl-C ignored.
  code = ("import signal\n"
          "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
          "from r1jax.checkpoint import hf_source\n"
          "try:\n  hf_source.folder('org/slow', True)\n"
          "except KeyboardInterrupt:\n  import os; os._exit(3)")
  with hub.serving(source) as server:
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {
            "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")})
    try:
      assert server.waits.wait(60)
      process.send_signal(signal.SIGINT)
      assert process.wait(20) == 3  # the file still waits
    finally:
      process.kill()


def test_only_names_are_asked_for(tmp_path, monkeypatch):
  monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
  with pytest.raises(ValueError, match="does not exist"):
    hf_source.folder(str(tmp_path / "a" / "b" / "c"), True)
