"""Finds the folder of a Hugging Face model, or says what to give instead."""

from __future__ import annotations

import os
import pathlib
import re

import huggingface_hub

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# The files of a repository that are needed.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def folder(what: str, download: bool = False) -> str:
  """The local folder of a Hugging Face model.

  Args:
    what: a folder with config.json; with `download` also a repository on
      huggingface.co.
    download: whether to download `what` if it is not a folder. Later calls
      download only changes and, without a network, use the cached copy.

  Raises:
    ValueError: it is neither; the message says what it is and what to give
      instead.
  """
  path = pathlib.Path(what)
  if (path / "config.json").is_file():
    return what
  if path.is_dir():
    raise ValueError(_folder_hint(path))
  if os.path.lexists(path):
    raise ValueError(_file_hint(path))
  if not _NAME.fullmatch(what) or what.startswith("."):
    raise ValueError(f"{what} does not exist; give the local folder of a"
                     " Hugging Face model: config.json and its safetensors")
  if not download:
    raise ValueError(
        f"{what} is no folder here; if it is a model on huggingface.co, python"
        f" -m experiments.import_hf --from={what} --download downloads and"
        f" imports it; or run hf download {what} --local-dir=DIR and give DIR")
  try:
    return huggingface_hub.snapshot_download(what, allow_patterns=_WANTED)
  except Exception as error:  # of the network, of access, of the name
    raise ValueError(
        f"{what} could not be downloaded ({type(error).__name__}:"
        f" {str(error).strip()[:300]}); fetch it where there is a network (hf"
        f" download {what} --local-dir=DIR) and give DIR") from error


def _folder_hint(path: pathlib.Path) -> str:
  if (path / "snapshots").is_dir():
    names = sorted((path / "snapshots").iterdir())
    return (f"{path} is a model's folder in the cache of huggingface_hub; give"
            f" the snapshot in it: {names[-1] if names else 'there is none'}")
  models = sorted(path.glob("models--*")) or sorted(path.glob("hub/models--*"))
  if models:
    return (f"{path} is the cache of huggingface_hub; give a snapshot in it, as"
            f" {models[0] / 'snapshots' / '...'}")
  if (path / "adapter_config.json").is_file():
    return (f"{path} holds an adapter without its base model; give the folder"
            " of the base model, or merge the two with peft (merge_and_unload,"
            " save_pretrained)")
  if list(path.glob("*.gguf")):
    return _gguf_hint(path)
  return (f"{path} has no config.json; give the folder of a Hugging Face model:"
          " config.json and its safetensors")


def _file_hint(path: pathlib.Path) -> str:
  if path.suffix == ".gguf":
    return _gguf_hint(path)
  return (f"{path} is not a folder; give the one that holds config.json and the"
          " safetensors" + (f": {path.parent}" if (
              path.parent / "config.json").is_file() else ""))


def _gguf_hint(path: pathlib.Path) -> str:
  return (f"{path}: GGUF is not supported; convert it with transformers:"
          " AutoModelForCausalLM.from_pretrained(DIR, gguf_file=NAME)"
          ".save_pretrained(NEW), and the tokenizer likewise")
