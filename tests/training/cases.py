"""A tiny model and one set of sequences, packed in different ways."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.data.streams import packing
from r1jax.losses.policy import PolicyConfig
from r1jax.models import presets
from r1jax.models.model import build
from r1jax.training import objectives, state, step

ROW = 24
LENGTHS = (24, 9, 15, 12, 12, 7, 17, 20, 5, 6, 18, 11, 13, 8, 16, 14)
POLICY = PolicyConfig(kl_beta=0.1, aggregation="seq_mean_token_mean",
                      tis_cap=1.3, clip_high=0.25)


@functools.cache
def model(name="tiny"):
  return build(presets.get(name))


def objective(name, kind):
  """`lm` with all its terms, or `grpo` with all of its."""
  mixture = name == "tiny"
  if kind == "lm":
    return objectives.lm_objective(model(name), objectives.LmConfig(
        mtp=0.3 * mixture, balance=0.1 * mixture))
  return objectives.grpo_objective(
      model(name), POLICY, balance=0.1 * mixture, temperature=0.8)


@functools.cache
def parameters(name):
  params = jax.jit(model(name).init)(jax.random.key(0))
  bias_LE = np.asarray(model(name).init_router_bias())
  noise_LE = np.random.default_rng(1).normal(size=bias_LE.shape)
  return jax.device_get(params), bias_LE + np.float32(0.05 * noise_LE)


def make_state(name="tiny", optimizer=None, held=()):
  """A state with buffers of its own: updates donate them."""
  params, bias_LE = jax.tree.map(jnp.array, parameters(name))
  return state.create(
      params, bias_LE, optimizer or optax.sgd(1.0), held=held)


@functools.cache
def sequences():
  rng = np.random.default_rng(0)
  return [packing.Sequence(
      tokens=rng.integers(61, size=n).astype(np.int32), prompt=3,
      advantage=float(rng.normal()),
      logprobs=rng.normal(-3, 0.5, n - 3).astype(np.float32))
      for n in LENGTHS]


def batch(n_micro=1, packed=True, row=ROW):
  """Micro-batches with log-probabilities that depend on their tokens alone."""
  if packed:
    out = packing.pack(sequences(), row, rows=16)
  else:
    parts = [packing.pack([s], row) for s in sequences()]
    out = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
  noise_BT = np.float32(np.sin(7.0 * out.targets_BT + out.positions_BT))
  old_BT = out.sampler_logprobs_BT + 0.2 * noise_BT
  out = dataclasses.replace(
      out, old_logprobs_BT=old_BT, ref_logprobs_BT=old_BT - 0.3 * noise_BT)
  return [jax.tree.map(jnp.asarray, micro)
          for micro in step.micro_batches(out, n_micro)]
