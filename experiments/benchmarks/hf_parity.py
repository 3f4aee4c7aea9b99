"""Compares speed and logits with transformers on the same weights.

  python -m experiments.benchmarks.hf_parity [--json]

transformers makes a tiny deepseek_v3 and a tiny qwen2 (4 layers, width 256) and
writes them; r1jax reads them. In one process both do the same work in turn,
`--reps` times after a warm-up; medians, in tokens per second.

  forward   logits of `--rows` x `--length` tokens
  decode    `--rows` completions of `--new` tokens, sampled at temperature 1,
            after prompts of `--prompt`; the prefill is included
  training  forward and backward of the mean token loss of `--rows` x `--length`

`gap` is the largest difference of the logits, relative to the largest logit.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from r1jax.checkpoint import hf_config
from r1jax.core.types import TokenBatch
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.report import tables
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import weights
from r1jax.training import objectives
from r1jax.training.objectives import LmConfig

from .. import start
from .output import JSON

MODELS = {"deepseek_v3": "peer-moe", "qwen2": "peer-small"}

REPS = flags.DEFINE_integer("reps", 3, "Timed rounds.", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 32, "Sequences of a batch.")
LENGTH = flags.DEFINE_integer("length", 192, "Tokens of a sequence.")
PROMPT = flags.DEFINE_integer("prompt", 64, "Tokens of a prompt.")
NEW = flags.DEFINE_integer("new", 128, "Tokens of a completion.")

Work = dict[str, Callable[[], Any]]


def tokens() -> np.ndarray:
  """Random ids, int64 [rows, length], the same for both libraries."""
  return np.random.default_rng(0).integers(4, 500, (ROWS.value, LENGTH.value))


def reference(family: str, folder: str) -> Work:
  """Makes transformers' model and writes it to `folder`; its work by kind."""
  try:
    import torch
    import transformers
  except ImportError as error:
    raise ValueError(
        f"{error}; install the references: pip install -e '.[test]'"
    ) from error
  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count() or 1)
  fields = hf_config.to_hf(presets.get(MODELS[family]), family, bos_id=0,
                           eos_ids=(1,), pad_id=2, dtype="float32")
  kind = fields.pop("model_type")
  model = transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(kind, **fields)).float().eval()
  model.save_pretrained(folder)
  ids = torch.tensor(tokens())
  prompts = ids[:, :PROMPT.value]

  def forward():
    with torch.no_grad():
      return model(ids).logits.numpy()

  def decode():
    with torch.no_grad():
      model.generate(
          prompts, attention_mask=torch.ones_like(prompts), do_sample=True,
          temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW.value,
          min_new_tokens=NEW.value, pad_token_id=2)

  def training():
    model.zero_grad()
    model(ids, labels=ids).loss.backward()

  return {"forward": forward, "decode": decode, "training": training}


def ours(folder: str) -> Work:
  """Reads the same files into r1jax's model; the same work by kind."""
  model, params, bias_LE = weights.load(
      f"hf:{folder}", Compute(), jax.random.key(0))
  ids_BT = jnp.asarray(tokens(), jnp.int32)
  rows, length = ids_BT.shape
  positions_BT = jnp.broadcast_to(jnp.arange(length)[None], (rows, length))
  segments_BT = jnp.ones((rows, length), jnp.int32)
  batch = TokenBatch(
      tokens_BT=ids_BT[:, :-1], targets_BT=ids_BT[:, 1:],
      positions_BT=positions_BT[:, :-1], segments_BT=segments_BT[:, :-1],
      mask_BT=jnp.ones((rows, length - 1), jnp.float32))
  objective = objectives.lm_objective(model, LmConfig())

  @jax.jit
  def logits(params, bias_LE):
    hidden = model.forward(
        params, bias_LE, ids_BT, positions_BT, segments_BT).hidden_BTD
    return hidden @ model.head(params)

  @jax.jit
  def gradient(params, bias_LE):
    def loss(params):
      total, weight = objective.evaluate(
          params, bias_LE, batch).terms["cross_entropy"]
      return total / weight
    return jax.grad(loss)(params)

  engine = Engine(model, SamplingConfig(max_new_tokens=NEW.value), frozenset(),
                  None)
  prompts = list(np.asarray(ids_BT[:, :PROMPT.value]))

  def decode():
    return engine.generate(params, bias_LE, prompts, range(rows), 1,
                           jax.random.key(0))

  return {"forward": lambda: np.asarray(logits(params, bias_LE)),
          "decode": decode,
          "training": lambda: jax.block_until_ready(gradient(params, bias_LE))}


def measure(family: str) -> dict[str, Any]:
  """Tokens per second of both, by kind of work, and the gap of the logits."""
  with tempfile.TemporaryDirectory() as folder:
    theirs, mine = reference(family, folder), ours(folder)
  want, got = theirs["forward"](), mine["forward"]()
  result: dict[str, Any] = {
      "model": family, "gap": float(np.abs(got - want).max()
                                    / np.abs(want).max())}
  count = {"forward": LENGTH.value, "training": LENGTH.value,
           "decode": NEW.value}
  for kind, length in count.items():
    seconds = {"r1jax": [], "transformers": []}
    for _ in range(REPS.value + 1):  # in turn; the first round compiles
      for name, work in (("r1jax", mine), ("transformers", theirs)):
        began = time.perf_counter()
        work[kind]()
        seconds[name].append(time.perf_counter() - began)
    rates = {name: ROWS.value * length / statistics.median(times[1:])
             for name, times in seconds.items()}
    result |= {f"{kind}_{name}": round(rate) for name, rate in rates.items()}
    result[f"{kind}_ratio"] = round(rates["r1jax"] / rates["transformers"], 2)
  return result


def main() -> None:
  results = [measure(family) for family in MODELS]
  if JSON.value:
    for result in results:
      print(json.dumps(result), flush=True)
    return
  print(tables.render(["measure", *(r["model"] for r in results)], [
      [key, *(f"{r[key]:,.4g}" if isinstance(r[key], float) else
              f"{r[key]:,}" for r in results)]
      for key in results[0] if key != "model"]))


if __name__ == "__main__":
  start.run(main)
