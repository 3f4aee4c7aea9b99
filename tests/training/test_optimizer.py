import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.stages.pretrain import PretrainConfig
from r1jax.training import state
from r1jax.training.optimizer import (
  OptimizerConfig,
  learning_rate,
  make_optimizer,
  matrices,
  scheduled,
)
from tests.training import cases

F32 = dict(rtol=1e-5, atol=1e-6)
CFG = OptimizerConfig(
    lr=0.1, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.3, clip=1.5,
    warmup_steps=3, schedule="cosine", total_steps=9, final_fraction=0.2)


def reference_lr(cfg, done):
  lr = cfg.lr
  if cfg.warmup_steps and done < cfg.warmup_steps:
    return lr * (done + 1) / cfg.warmup_steps
  if cfg.schedule == "constant":
    return lr
  share = min((done - cfg.warmup_steps)
              / (cfg.total_steps - cfg.warmup_steps), 1)
  low = lr * cfg.final_fraction
  return low + (lr - low) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize("cfg", [
    CFG, OptimizerConfig(lr=0.1), OptimizerConfig(lr=0.1, warmup_steps=4)])
def test_schedule(cfg):
  got = [learning_rate(cfg)(n) for n in range(12)]
  np.testing.assert_allclose(
      got, [reference_lr(cfg, n) for n in range(12)], **F32)


def reference(cfg, params, all_grads, decayed, stored=lambda x: x):
  """AdamW with clipping, in float64."""
  params = {k: np.float64(v) for k, v in params.items()}
  m = {k: 0.0 for k in params}
  v = {k: 0.0 for k in params}
  for n, grads in enumerate(all_grads):
    norm = math.sqrt(sum(float(np.sum(g**2)) for g in grads.values()))
    shrink = min(1.0, cfg.clip / norm)
    for k in params:
      g = np.float64(grads[k]) * shrink
      m[k] = cfg.b1 * stored(m[k]) + (1 - cfg.b1) * g
      v[k] = cfg.b2 * stored(v[k]) + (1 - cfg.b2) * g**2
      step = (m[k] / (1 - cfg.b1 ** (n + 1))) / (
          np.sqrt(v[k] / (1 - cfg.b2 ** (n + 1))) + cfg.eps)
      if k in decayed:
        step = step + cfg.weight_decay * params[k]
      params[k] = params[k] - reference_lr(cfg, n) * step
  return params


def run(cfg, params, all_grads):
  optimizer = make_optimizer(cfg)
  opt_state = optimizer.init(params)
  for grads in all_grads:
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params


def case():
  rng = np.random.default_rng(0)
  shapes = {"w_up": (3, 5), "norm_1": (2, 5), "b_q": (4,), "embed": (6, 3)}

  def draw(scale):
    return {k: np.float32(scale * rng.normal(size=s))
            for k, s in shapes.items()}

  return draw(1.0), [draw(scale) for scale in (1.0, 0.01, 3.0, 0.2, 1.0, 2.0)]


def test_adamw():
  got = run(CFG, *case())
  want = reference(CFG, *case(), decayed=("w_up", "embed"))
  for name in want:
    np.testing.assert_allclose(got[name], want[name], **F32)


@pytest.mark.parametrize("broken", [
    dict(clip=1e9), dict(weight_decay=0.0), dict(b1=0.0), dict(b2=0.0),
    dict(eps=1e-8), dict(warmup_steps=0), dict(schedule="constant")], ids=str)
def test_teeth(broken):
  got = run(CFG, *case())
  other = OptimizerConfig(**{**vars(CFG), **broken})
  want = reference(other, *case(), decayed=("w_up", "embed"))
  assert max(np.max(np.abs(got[k] - want[k])) for k in want) > 1e-4


def test_matrices_of_the_models():
  for name in ("tiny", "tiny-dense"):
    params = cases.parameters(name)[0]
    flat = jax.tree_util.tree_flatten_with_path(matrices(params))[0]
    by_name = {jax.tree_util.keystr(path[-1:], simple=True): decayed
               for path, decayed in flat}
    for leaf, decayed in by_name.items():
      assert decayed != ("norm" in leaf or leaf.startswith("b_")), leaf


def test_moments_are_float32():
  params = {"w_up": jnp.ones((2, 3), jnp.bfloat16)}
  optimizer = make_optimizer(CFG)
  made = state.create(params, jnp.zeros((0, 0)), optimizer)
  kinds = {x.dtype for x in jax.tree.leaves(made.opt_state)}
  assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
  assert made.params["w_up"].dtype == jnp.float32  # the masters
  made = state.create(params, jnp.zeros((0, 0)), optimizer, masters=False)
  assert {x.dtype for x in jax.tree.leaves(made.opt_state)} == kinds
  assert made.params["w_up"].dtype == jnp.bfloat16


def rounded(x):
  return np.float64(jnp.asarray(x, jnp.bfloat16))


def test_moments_in_bfloat16():
  """The reference with both moments rounded after every update."""
  cfg = dataclasses.replace(CFG, moments="bfloat16")
  params, all_grads = case()
  got = run(cfg, params, all_grads)
  want = reference(CFG, params, all_grads, ("w_up", "embed"), stored=rounded)
  exact = reference(CFG, params, all_grads, ("w_up", "embed"))
  for name in want:
    # A float32 moment at the edge of rounding may fall to the other side.
    np.testing.assert_allclose(got[name], want[name], rtol=0, atol=2e-4)
  assert max(np.max(np.abs(want[k] - exact[k])) for k in want) > 5e-4
  stored = make_optimizer(cfg).init(params)
  kinds = {x.dtype for x in jax.tree.leaves(stored)}
  assert kinds == {jnp.dtype("bfloat16"), jnp.dtype("int32")}


@pytest.mark.parametrize("bad", [
    dict(lr=0.0), dict(b1=1.0), dict(eps=0.0), dict(clip=-1.0),
    dict(moments="int8"), dict(b2=0.999, moments="bfloat16"),
    dict(schedule="linear"),
    dict(schedule="cosine", warmup_steps=5, total_steps=3),
    dict(rounding="up"),
], ids=str)
def test_bad_options(bad):
  with pytest.raises(ValueError, match=list(bad)[-1]):
    OptimizerConfig(**{"lr": 0.1, **bad})


def test_a_schedule_of_the_runs_length():
  open_end = OptimizerConfig(lr=0.1, schedule="cosine")
  with pytest.raises(ValueError, match="total_steps=0 of the cosine"):
    learning_rate(open_end)
  assert scheduled(open_end, 9).total_steps == 9
  own = dataclasses.replace(open_end, total_steps=4)
  assert scheduled(own, 9) is own
  assert scheduled(OptimizerConfig(lr=0.1), 9).total_steps == 0


@pytest.mark.parametrize("updates,warm", [(3600, 200), (500, 50), (9, 0)])
def test_a_warm_up_of_the_runs_length(updates, warm):
  """200 updates of warm-up by default were all that a short run had."""
  open_end = OptimizerConfig(lr=0.1, schedule="cosine", warmup_steps=None)
  with pytest.raises(ValueError, match="warmup_steps=none: only a run knows"):
    learning_rate(open_end)
  own = scheduled(open_end, updates)
  assert (own.warmup_steps, own.total_steps) == (warm, updates)
  rate = learning_rate(own)
  assert float(rate(warm)) == np.float32(0.1)
  assert float(rate(updates)) == pytest.approx(0.01, rel=1e-6)


def test_pre_training_of_any_length_has_its_whole_schedule():
  for steps, warm in ((3600, 200), (50, 5)):
    own = scheduled(PretrainConfig().optimizer, steps)
    assert (own.warmup_steps, own.total_steps) == (warm, steps)
