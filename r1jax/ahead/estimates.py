"""Estimates of programs' temporary memory, from shapes, without a compiler."""

from __future__ import annotations

import dataclasses
import math

import jax
from jax.sharding import Mesh

from r1jax.accounting import memory
from r1jax.ahead import aot, resident
from r1jax.ahead.aot import Program
from r1jax.ahead.aot_config import AheadConfig
from r1jax.ahead.resident import NOBODY, Beside
from r1jax.models.model import Model
from r1jax.rollout.prefill import PART
from r1jax.training import objectives, state

# Tokens whose logits exist at a time, see `ops.logprobs`.
CHUNK = 1024


def transient(model: Model, cfg: AheadConfig, mesh: Mesh,
              programs: dict[str, Program], beside: Beside = NOBODY
              ) -> dict[str, dict[str, int]]:
  """Bytes of the largest temporary arrays, by program and purpose.

  For devices that cannot be compiled for here, such as GPUs. It is a lower
  bound: other temporaries of the compiler are unknown. All that a layer's
  backward pass reads is assumed to be alive at once, for one layer with
  `remat=full` and for all layers with `remat=none`.

  Args:
    model: the policy, with the device's form of attention.
    cfg: the sizes.
    mesh: a mesh of one device of any kind.
    programs: `aot.programs` of the same arguments.
    beside: the teacher and the reward models that `programs` were made with.
  """
  c, size = model.cfg, memory.shard_bytes
  arrays = resident.arrays(model, cfg, mesh)
  layer, tokens = _layer(model, cfg, mesh), cfg.micro * cfg.length
  logits = 4 * c.vocab_size * min(CHUNK, tokens)
  stacks = {name: part for name, part in arrays.compute.items()
            if name.endswith("_blocks")}
  cache, inserted = (programs[name].held.device["cache"]
                     for name in ("decode", "insert"))
  prompts = cfg.rows // cfg.samples * cfg.prompt  # their tokens
  read = cfg.rows * (1 + cfg.speculate)  # tokens of a decoding step
  made = {
      "reshard": {"the decoding copy": size(arrays.decoding)},
      "prefill": {
          # A prompt that is read in parts goes through layers written out.
          "the layers' parameters, stacked": (
              size(stacks) * (cfg.prompt <= PART)),
          "the prompts' cache": inserted - cache,
          "a layer's activations": math.ceil(
              layer * min(prompts, PART) / tokens)},
      "decode": {
          "logits of all rows, and their order": (
              2 * 4 * read * c.vocab_size),
          "scores of a layer": 4 * read * c.n_heads * cfg.length},
      "insert": {},
      "halve": {"half of a layer's cache": cache // 2 // c.n_layers},
      "logprobs": {
          "a layer's activations": layer,
          "logits of a chunk, and their exponentials": 2 * logits},
      "accumulate": {
          "kept for the backward pass": programs["accumulate"].kept,
          "a layer's activations": (
              layer if model.compute.remat == "full" else 0),
          "gradient of a micro-batch": size(
              state.trained(arrays.compute, resident.HELD)),
          "float32 gradient of an embedding": (
              0 if model.compute.dtype == "float32"
              else 4 * c.vocab_size * c.d_model),
          "logits of a chunk, and their gradient": 2 * logits},
      "apply": {"update of the largest parameter": 4 * max(
          math.prod(x.shape) for x in jax.tree.leaves(arrays.state.params))}}
  if teacher := beside.teacher:
    made["taught"] = {
        "a layer's activations": _layer(teacher, cfg, mesh),
        "logits of a chunk, and their exponentials": (
            8 * teacher.cfg.vocab_size * min(CHUNK, tokens))}
  if beside.rewards:
    asked = cfg.model_rows * cfg.model_length
    made["score"] = {"a layer's activations": max(
        math.ceil(_layer(one.trunk, cfg, mesh) * asked / tokens)
        for one in beside.rewards.values())}
  return {name: {what: bytes_ for what, bytes_ in made[name].items() if bytes_}
          for name in programs}


def _layer(model: Model, cfg: AheadConfig, mesh: Mesh) -> int:
  """Bytes that a layer's backward pass reads, for one micro-batch."""
  plain = dataclasses.replace(model, compute=dataclasses.replace(
      model.compute, remat="none"))
  objective = objectives.grpo_objective(plain, cfg.policy)
  arrays = resident.arrays(plain, cfg, mesh)
  return aot.kept(plain, objective, arrays, mesh) // model.cfg.n_layers
