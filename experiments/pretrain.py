"""Pre-trains the embedded base on the web-like arithmetic corpus.

The base that ships with the package was made by

  python -m experiments.pretrain --workdir=runs/base --export=DIR
"""

from __future__ import annotations

import functools
import sys

from absl import flags
from etils import epath

from experiments import flagset, start
from r1jax.core import config as config_lib
from r1jax.data import corpus, hf_tokenizer
from r1jax.models import build, presets
from r1jax.models.layers import Compute
from r1jax.report import figures, workdir, writer
from r1jax.stages import pretrain, weights

PRETRAIN = flagset.define(pretrain.PretrainConfig)
COMPUTE = flagset.define(Compute, "compute")
CORPUS = flagset.define(corpus.CorpusConfig, "corpus")
PRESET = flags.DEFINE_string("preset", "base-arith", "Model, by name.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", str(weights.TOKENIZER), "Folder with tokenizer.json, or a"
    " SentencePiece model.")
WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
EXPORT = flags.DEFINE_string(
    "export", "", "Folder to write base.safetensors (bfloat16), base.json and"
    " the loss curve to at the end.")


def main() -> None:
  model = build.build(presets.get(PRESET.value), COMPUTE.resolve(Compute()))
  cfg = PRETRAIN.resolve(pretrain.PretrainConfig())
  mixture = CORPUS.resolve(corpus.DEFAULT)
  text_at = functools.partial(corpus.document, cfg.seed, config=mixture)
  tokenizer = hf_tokenizer.load(TOKENIZER.value)
  state = pretrain.run(cfg, model, tokenizer, text_at, WORKDIR.value)
  if not EXPORT.value or int(state.step) < cfg.steps:
    return
  path = epath.Path(EXPORT.value) / "base.safetensors"
  weights.save(
      path, model.cfg, state.params, state.router_bias_LE, made_by={
          "command": " ".join(["-m experiments.pretrain", *sys.argv[1:]]),
          "config": config_lib.to_dict(cfg),
          "corpus": config_lib.to_dict(mixture),
          "versions": workdir.versions()})
  figures.curves(
      writer.read(WORKDIR.value), path.parent / "base_loss.png",
      ("loss/cross_entropy", "loss/mtp"), "Pre-training loss (nats per token)")
  print(f"wrote {path}", flush=True)


if __name__ == "__main__":
  start.run(main)
