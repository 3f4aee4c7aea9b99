"""Finds the folder of a Hugging Face model, or says what to give instead."""

from __future__ import annotations

import os
import pathlib
import queue
import re
import threading

import huggingface_hub
from huggingface_hub import constants, errors

from r1jax.core import io

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# The files of a repository that are needed; not those of its subfolders, nor
# the same weights once more in Mistral's own format.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_UNWANTED = ["*/*", "consolidated*"]


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
  return _downloaded(what)


def _downloaded(what: str) -> str:
  """The folder in the cache with the files of a repository."""
  ended: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()

  def work() -> None:
    try:
      ended.put((huggingface_hub.snapshot_download(
          what, allow_patterns=_WANTED, ignore_patterns=_UNWANTED), None))
    except Exception as error:  # of the network, of access, of the name
      ended.put(("", error))

  # In a thread of its own, because the package would answer Ctrl-C only when
  # all files in progress are complete.
  threading.Thread(target=work, daemon=True).start()
  name, error = ended.get()
  if error:
    raise ValueError(f"{what} could not be downloaded: {_reason(error, what)}"
                     ) from error
  path = pathlib.Path(name)
  if not (path / "config.json").is_file():
    raise ValueError(f"{what} was downloaded: {_folder_hint(path)}")
  if not list(path.glob("*.safetensors")):
    raise ValueError(f"{what} has no safetensors at {_page(what)}; take another"
                     " upload of the model, or convert this one with"
                     " transformers (save_pretrained)")
  return os.fspath(path)


def _page(what: str) -> str:
  return f"{constants.ENDPOINT}/{what}"


def _reason(error: Exception, what: str) -> str:
  """Why a download failed, and what to do."""
  login = "log in (hf auth login, or HF_TOKEN in the environment)"
  if isinstance(error, errors.GatedRepoError):
    return (f"it is gated; accept its conditions at {_page(what)}, then {login}"
            " and run the same command again")
  if isinstance(error, errors.RepositoryNotFoundError):
    return (f"there is no {_page(what)}, or it is private; check the name, or"
            f" {login}")
  elsewhere = (f"; fetch it where there is a network (hf download {what}"
               " --local-dir=DIR) and give DIR")
  if isinstance(error, errors.IncompleteSnapshotError):
    return (f"only a part of it is in the cache, and {constants.ENDPOINT} does"
            " not answer; run the same command again when it does, or" +
            elsewhere[1:])
  if isinstance(error, OSError) and error.errno and error.filename:
    return (f"{error.strerror}: {error.filename}; {io.remedy(error.errno)}"
            " (HF_HOME)")
  cause = error
  while cause.__cause__ or cause.__context__:
    cause = cause.__cause__ or cause.__context__
  said = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
  reached = isinstance(cause, errors.HfHubHTTPError) or not isinstance(
      cause, OSError)
  how = "does not answer as expected" if reached else "cannot be reached"
  return f"{constants.ENDPOINT} {how} ({said}){elsewhere}"


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
