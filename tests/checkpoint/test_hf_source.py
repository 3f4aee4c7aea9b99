"""What people give for a model's folder, and what they are told."""

import os

import huggingface_hub
import pytest

from r1jax.checkpoint import hf_files, hf_source
from r1jax.stages import weights


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


def test_a_name_is_fetched_when_asked_for(tmp_path, monkeypatch):
  asked = []

  def snapshot_download(name, allow_patterns):
    asked.append((name, allow_patterns))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  assert hf_source.folder("Qwen/Qwen2.5-0.5B", True) == str(tmp_path)
  (name, patterns), = asked
  assert name == "Qwen/Qwen2.5-0.5B" and "*.safetensors" in patterns
  assert not any(p in patterns for p in ("*", "*.py", "*.bin"))
  with pytest.raises(ValueError, match="does not exist"):
    hf_source.folder(str(tmp_path / "a" / "b" / "c"), True)
  assert len(asked) == 1


def test_no_network_is_no_traceback(monkeypatch):
  def snapshot_download(name, allow_patterns):
    raise ConnectionError("no route")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  with pytest.raises(ValueError, match=(
      r"a/b could not be downloaded \(ConnectionError: no route\); fetch it"
      " where there is a network")):
    hf_source.folder("a/b", True)
