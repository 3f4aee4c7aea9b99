"""Imports a Hugging Face model into a workdir for --init=orbax:WORKDIR.

  python -m experiments.import_hf --from=DIR --workdir=runs/qwen
  python -m experiments.sample --init=orbax:runs/qwen --template=chat

DIR is local: config.json, safetensors in one or several files, a tokenizer.
Families: DeepSeek-V2 and V3, Kimi K2, Qwen2, Qwen3 with and without experts,
Llama, Mistral, Gemma 3 (text); bfloat16, float16, float32 or DeepSeek's FP8.
With --download DIR may be a name on huggingface.co. Importing is optional:
every experiment takes --init=hf:DIR. A workdir loads faster, because its
parameters are restored in parallel and already in --compute.param_dtype.
"""

from __future__ import annotations

import os

import jax
from absl import flags
from etils import epath

from r1jax.checkpoint import hf_source, retention
from r1jax.checkpoint.manager import Manager
from r1jax.core import config as config_lib
from r1jax.core.config import check
from r1jax.core.lock import Lock
from r1jax.data.text import hf_tokenizer
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.models.compute import Compute
from r1jax.models.config import describe
from r1jax.report import progress
from r1jax.report import workdir as workdir_lib
from r1jax.sharding.mesh import MeshConfig, mesh_or_none
from r1jax.stages import weights

from . import flagset, start

FROM = flags.DEFINE_string(
    "from", "", "Folder of the Hugging Face model; with --download also a name"
    " on huggingface.co, such as Qwen/Qwen2.5-0.5B.")
DOWNLOAD = flags.DEFINE_bool(
    "download", False, "Download --from into huggingface_hub's cache.")
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/imported", "New folder to write.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder with tokenizer.json, or a SentencePiece model;"
    " default: the one in --from.")
COMPUTE = flagset.define(Compute, "compute")
MESH = flagset.define(MeshConfig, "mesh")


def main() -> None:
  check(bool(FROM.value), "give --from=DIR, the folder of a Hugging Face model")
  source = hf_source.folder(FROM.value, DOWNLOAD.value)
  compute = COMPUTE.value()
  mesh = mesh_or_none(MESH.value())
  workdir = epath.Path(WORKDIR.value)
  check_new(workdir)  # fail early
  with Lock(workdir):
    check_new(workdir)  # another process may have imported meanwhile
    write(source, workdir, compute, mesh)


def check_new(workdir: epath.Path) -> None:
  """Raises ValueError if the folder has a checkpoint."""
  check(not retention.complete(workdir / "checkpoints"),
        f"{workdir} has a run or an import already; nothing was changed; use it"
        f" as --init=orbax:{workdir} or choose another --workdir")


def write(source: str, workdir: epath.Path, compute: Compute,
          mesh: jax.sharding.Mesh | None) -> None:
  """Imports the model of a folder."""
  tokenizer = hf_tokenizer.load(TOKENIZER.value or source)
  with progress.percent("import") as report:
    policy = weights.load(f"hf:{source}", compute, jax.random.key(0), mesh,
                          report=report)
  cfg = policy.model.cfg
  tokenizer_lib.check_fits(tokenizer, cfg.vocab_size)
  workdir_lib.prepare(workdir, {
      "model": config_lib.to_dict(cfg), "param_dtype": compute.param_dtype,
      "imported_from": os.path.abspath(source)}, workdir_lib.versions())
  tokenizer_lib.keep(tokenizer, workdir)
  manager = Manager(workdir / "checkpoints", keep=1)
  manager.save(0, {"params": policy.params,
                   "router_bias_LE": policy.router_bias_LE}, {}, force=True,
               donated=())
  manager.close()
  print(f"{describe(cfg)}\nuse it as --init=orbax:{workdir}"
        f" --compute.param_dtype={compute.param_dtype}", flush=True)


if __name__ == "__main__":
  start.run(main)
