"""Loads a reward model from its own files, or a policy with a new head.

`Weights` of a reward model have a `ScalarModel`. Its folder has a `reward.json`
with the template, the validation and the score of blank answers.
"""

from __future__ import annotations

import os
from typing import Any

import jax
from etils import epath

from r1jax.checkpoint import hf_config, hf_io, inits
from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.text import hf_tokenizer
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models import scalar_head
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.models.model import build
from r1jax.models.scalar_head import ScalarModel
from r1jax.report import workdir as workdir_lib
from r1jax.stages import exporting, weights
from r1jax.stages.weights import Weights
from r1jax.training import lora

ABOUT = exporting.REWARD
HEAD = "scalar"  # value of "head" in the config of a reward model's run


def load(init: str, compute: Compute, key: jax.Array,
         mesh: jax.sharding.Mesh | None = None, *,
         report: hf_io.Report | None = None) -> Weights:
  """A reward model from `init`.

  Args:
    init: as `weights.load` takes it. A run of `stages.reward` and a Hugging
      Face folder of ...ForSequenceClassification with one label are reward
      models; a policy gets a new head on its trunk.
    compute: how it is computed.
    key: of a new head, and of random parameters.
    mesh: the mesh to place parameters on; None for the default device.
    report: shows the progress of `hf:DIR`, see `hf_io.load`.

  Raises:
    ValueError: as `weights.load`.
  """
  kind, _, what = init.partition(":")
  if kind == "orbax" and what and inits.settings_of(what).get("head"):
    return _from_run(what, compute, mesh)
  fields = _fields(what) if kind == "hf" and what else {}
  if hf_config.is_scalar(fields):
    model = scalar_head.over(hf_config.from_hf(fields), compute)
    return Weights(model, *hf_io.load(
        what, model, weights.placed(model, mesh), report=report))
  policy = weights.load(init, compute, key, mesh, report=report)
  model = scalar_head.over(policy.model.cfg, compute)
  return Weights(model, *scalar_head.grown(
      model, policy.params, policy.router_bias_LE, key))


def with_tokenizer(init: str, compute: Compute | None = None, *, seed: int = 0,
                   mesh: jax.sharding.Mesh | None = None,
                   tokenizer: str | os.PathLike = "",
                   ) -> tuple[Weights, Tokenizer]:
  """`load` with a tokenizer that fits, like `weights.with_tokenizer`."""
  reward_tokenizer = hf_tokenizer.load(tokenizer or weights.tokenizer_of(init))
  reward = load(init, compute or Compute(), jax.random.key(seed), mesh)
  tokenizer_lib.check_fits(reward_tokenizer, reward.model.cfg.vocab_size)
  return reward, reward_tokenizer


def about(init: str) -> dict[str, Any]:
  """The contents of a reward model's `reward.json`.

  Raises:
    ValueError: `init` is not a reward model, its run is not finished, or the
      file is missing.
  """
  kind, _, what = init.partition(":")
  check(kind in ("orbax", "hf") and bool(what), f"{init!r} is not a reward"
        " model; give orbax:WORKDIR of experiments.train_reward, or hf:DIR")
  path = epath.Path(workdir_lib.named(what)[0]) / ABOUT
  if path.exists():
    return io.read_json(path)
  if kind == "orbax":
    check(bool(inits.settings_of(what).get("head")), f"{what} is the run of a"
          " policy; a reward model is trained by experiments.train_reward")
    raise ValueError(f"{path} does not exist: the run is not finished; resume"
                     " it with the same command of experiments.train_reward")
  raise ValueError(
      f"{path} does not exist. It has the score of an answer without text,"
      " which must be below the scores of bad answers: write"
      ' {"blank": -5.0, "template": "chat"} with a number that suits the'
      " model's scores")


def _fields(folder: str) -> dict[str, Any]:
  path = epath.Path(folder) / "config.json"
  return io.read_json(path) if path.exists() else {}


def _from_run(workdir: str, compute: Compute, mesh: Any) -> Weights:
  settings = inits.settings_of(workdir)
  cfg = config_lib.from_dict(ModelConfig, settings["model"])
  model = ScalarModel(build(cfg, compute))
  trained, adapter = weights.checkpoint(workdir, settings, model, mesh)
  if not adapter.rank:
    return trained
  check(bool(settings.get("init")), f"{workdir}/config.json does not say which"
        " parameters the adapter adapts (init); train it through experiments/")
  base = load(settings["init"], compute, jax.random.key(settings["seed"]), mesh)
  weights.check_adapted(base, settings, workdir)
  return trained._replace(
      params=lora.join(base.params, trained.params, adapter.scale))
