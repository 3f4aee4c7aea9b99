"""Adapters: joined, differentiated, trained; the base rests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from r1jax.checkpoint import trees
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops.linear import Adapted
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import lora, metrics, optimizer, state, step
from r1jax.training.lora import LoraConfig
from tests.reference import lora as reference
from tests.training import cases

F32 = dict(rtol=1e-6, atol=1e-6)
GRADIENT = dict(rtol=1e-4, atol=1e-5)
SAME = dict(rtol=1e-5, atol=1e-5)
CFG = LoraConfig(rank=4, alpha=6.0, experts=True)
SGD = optax.sgd(1.0)  # the new adapter is the old minus the gradient


@functools.cache
def adapter(name):
  """One whose B is not zero, on the host."""
  model, (params, _) = cases.model(name), cases.parameters(name)
  made = lora.init(jax.random.key(1), params, model.param_axes(), CFG)
  rng = np.random.default_rng(2)
  return jax.tree.map(
      lambda x: np.asarray(x) + np.float32(0.2 * rng.normal(size=x.shape)),
      jax.device_get(made))


def merge(params, tree):
  """The dense sums, on the host."""
  return jax.device_get(lora.dense(lora.join(
      *jax.tree.map(jnp.asarray, (params, tree)), CFG.scale)))


def adapted(tree):
  """(path of the base's leaf, A, B) of every adapted matrix."""
  leaves = trees.flatten(tree)
  for name in leaves:
    if name.endswith(".w_a"):
      path = name.removesuffix(".w_a")
      yield path, leaves[name], leaves[path + ".w_b"]


@pytest.mark.parametrize("name", ["tiny", "tiny-dense"])
def test_dense(name):
  params = cases.parameters(name)[0]
  got = trees.flatten(merge(params, adapter(name)))
  base, seen = trees.flatten(params), set()
  for path, a, b in adapted(adapter(name)):
    leaf = path.rpartition(".")[2]
    want = reference.merge(leaf, base[path], a, b, 6.0 / 4)
    np.testing.assert_allclose(got[path], want, **F32, err_msg=path)
    # Teeth: a forgotten scale, or alpha without the rank.
    for scale in (1.0, 6.0):
      other = reference.merge(leaf, base[path], a, b, scale)
      assert np.abs(other - want).max() > 0.05
    seen.add(path)
  for path in set(got) - seen:
    np.testing.assert_array_equal(got[path], base[path])
  words = {path.rpartition(".w_")[2] for path in seen}
  assert words == ({"dq", "uq", "dkv", "ukv", "o", "gate", "up", "down"}
                   if name == "tiny" else
                   {"q", "k", "v", "o", "gate", "up", "down"})
  assert not any(word in path for path in seen
                 for word in ("router", "embed", "head", "norm", "mtp"))


def test_targets_and_experts_choose():
  model, (params, _) = cases.model(), cases.parameters("tiny")
  def paths(**changes):
    made = lora.init(jax.random.key(0), params, model.param_axes(),
                     LoraConfig(rank=1, **changes))
    return {path for path, *_ in adapted(made)}

  shared = {"dense_blocks.ffn.w_gate", "mixture_blocks.ffn.shared.w_gate"}
  assert paths(targets=("gate",)) == shared
  assert paths(targets=("gate", "q"), experts=True) == shared | {
      "mixture_blocks.ffn.w_gate"}
  with pytest.raises(ValueError, match="the model has none of targets=q,k"):
    paths(targets=("q", "k"))


def test_at_first_it_is_the_base():
  model, (params, _) = cases.model(), cases.parameters("tiny")
  made = lora.init(jax.random.key(1), params, model.param_axes(), CFG)
  merged = merge(params, made)
  jax.tree.map(np.testing.assert_array_equal, merged, params)
  for path, a, b in adapted(made):
    assert not np.any(b) and a.dtype == b.dtype == jnp.float32
    inputs = np.prod(a.shape[-3 if path.endswith("w_o") else -2:-1])
    np.testing.assert_allclose(np.std(a), inputs**-0.5, rtol=0.35)
  firsts = {float(np.ravel(a)[0]) for _, a, _ in adapted(made)}
  assert len(firsts) == len(list(adapted(made)))  # all drawn apart


def logprobs(model, params, tokens):
  """float32 log-probabilities of each row's own tokens, [rows, T - 1]."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  out = model.forward(params, model.init_router_bias(), tokens, positions,
                      jnp.ones_like(tokens))
  logits = jnp.dot(out.hidden_BTD, model.head(params),
                   preferred_element_type=jnp.float32)
  return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]),
                             tokens[:, 1:, None], -1)[..., 0]


@functools.cache
def updated(count):
  """A bfloat16 base, joined with an adapter after Adam at 1e-6, and rows.

  Every update goes where the first goes, by the rate times the sign of the
  gradient, and so moves B alone.
  """
  model, cfg = cases.model("tiny-dense"), LoraConfig(rank=8, alpha=16.0)
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16),
                        cases.parameters("tiny-dense")[0])
  made = lora.init(jax.random.key(1), params, model.param_axes(), cfg)
  tokens = jnp.asarray(np.random.default_rng(4).integers(0, 61, (2048, 24)))
  gradient = jax.jit(jax.grad(lambda tree: jnp.mean(logprobs(
      model, lora.join(params, tree, cfg.scale), tokens))))(made)
  stepped = jax.tree.map(
      lambda x, d: x + count * 1e-6 * jnp.sign(d), made, gradient)
  return params, lora.join(params, stepped, cfg.scale), tokens


def change(params, joined, tokens, dtype):
  """Mean change of each row's log-probability by the adapter."""
  model = build(presets.TINY_DENSE, Compute(dtype=dtype))
  run = jax.jit(functools.partial(logprobs, model))
  return np.float64(run(joined, tokens) - run(params, tokens)).mean(1)


def test_a_young_adapter_acts_in_bfloat16_as_in_float32():
  """On log-probabilities of a whole model, in the mean over many tokens.

  A token's change in bfloat16 is the exact one and the roundings that it tips
  over, which are far larger and cancel in the mean: the tolerance is four
  standard errors of theirs, counted by rows. Hence 100 updates; one update's
  change is less than a tenth of that error.
  """
  params, joined, tokens = updated(100)
  exact = change(params, joined, tokens, "float32")
  got = change(params, joined, tokens, "bfloat16")
  error = 4 * np.std(got - exact) / np.sqrt(len(tokens))
  assert error < 0.4 * exact.mean()
  assert abs(got.mean() - exact.mean()) <= error
  # Teeth: sums in the dtype of the base have lost most of it.
  merged = jax.tree.map(lambda w, like: w.astype(like.dtype),
                        lora.dense(joined), params)
  lost = change(params, merged, tokens, "float32").mean()
  assert abs(lost - exact.mean()) > 1.5 * error


def test_what_a_bfloat16_file_would_lose():
  _, joined, _ = updated(1)
  w = joined["dense_blocks"]["attn"]["w_q"]
  base, delta = np.float64(w.w), w.scale * np.einsum(
      "ldr,lrnh->ldnh", np.float64(w.a), np.float64(w.b))
  stored = np.float64(np.float32(base + delta).astype(jnp.bfloat16))
  want = np.linalg.norm(stored - base - delta) / np.linalg.norm(delta)
  np.testing.assert_allclose(
      lora.rounded_away({"w_q": w}, "bfloat16"), want, rtol=1e-2)
  assert want > 0.9
  assert lora.rounded_away({"w_q": w}, "float32") < 0.01
  assert lora.rounded_away({"w_q": w.w}, "bfloat16") == 0.0


def test_what_is_rounded_is_not_optimised_away():
  """XLA leaves out a cast to bfloat16 and back where it can fuse it."""
  rng = np.random.default_rng(0)
  w, a, b = (jnp.asarray(scale * rng.normal(size=shape), dtype)
             for scale, shape, dtype in (
                 (0.05, (96, 64), jnp.bfloat16), (0.1, (96, 8), jnp.float32),
                 (1e-5, (8, 64), jnp.float32)))
  assert 0.9 < lora.rounded_away({"w_q": Adapted(w, a, b, 1.0)}, "bfloat16") < 1


def test_adapters_add_up():
  """One trained on top of another, of another rank and scale."""
  params = cases.parameters("tiny")[0]
  first = adapter("tiny")
  second = jax.tree.map(lambda x: x[..., :3] if x.shape[-1] == 4 else x, {
      "mixture_blocks": {"attn": {"w_o": {
          "w_a": first["mixture_blocks"]["attn"]["w_o"]["w_a"],
          "w_b": 0.5 * first["mixture_blocks"]["attn"]["w_o"]["w_b"][:, :3]}}}})
  joined = lora.join(lora.join(params, first, CFG.scale), second, 0.7)
  got = trees.flatten(jax.device_get(lora.dense(joined)))
  base, path = trees.flatten(params), "mixture_blocks.attn.w_o"
  for name, a, b in adapted(first):
    want = reference.merge(
        name.rpartition(".")[2], base[name], a, b, CFG.scale)
    if name == path:
      want = reference.merge("w_o", want, *(
          second["mixture_blocks"]["attn"]["w_o"][x] for x in ("w_a", "w_b")),
                             0.7)
    np.testing.assert_allclose(got[name], want, **F32, err_msg=name)


@functools.cache
def compiled(name):
  frozen = lora.Frozen(jax.tree.map(jnp.array, cases.parameters(name)[0]),
                       CFG.scale)
  return frozen, step.make_update(
      cases.objective(name, "lm"), SGD, gamma=0.01, frozen=frozen)


def make_state(name):
  tree, bias_LE = jax.tree.map(
      jnp.array, (adapter(name), cases.parameters(name)[1]))
  return state.create(tree, bias_LE, SGD)


@functools.cache
def expected(name):
  """The adapter after one update on one device, and its metrics."""
  new, found = compiled(name)[1].run(make_state(name), cases.batch(2))
  return jax.device_get((new.params, new.router_bias_LE)), metrics.floats(found)


def test_gradient_is_that_of_the_merged_matrices_projected():
  """And the router bias moves as it does without an adapter."""
  params, bias_LE = cases.parameters("tiny")
  before = merge(params, adapter("tiny"))
  merged = jax.tree.map(jnp.array, before)
  full = step.make_update(cases.objective("tiny", "lm"), SGD, gamma=0.01)
  new, found = full.run(
      state.create(merged, jnp.array(bias_LE), SGD), cases.batch(2))
  grads = trees.flatten(
      jax.tree.map(lambda a, b: a - np.asarray(b), before, new.params))
  (got, got_bias_LE), got_metrics = expected("tiny")
  np.testing.assert_allclose(got_bias_LE, new.router_bias_LE, rtol=1e-6)
  for metric in ("loss", "loss/mtp", "entropy"):
    np.testing.assert_allclose(
        got_metrics[metric], metrics.floats(found)[metric], **SAME)
  moved = {path: (a, b) for path, a, b in adapted(got)}
  largest = 0.0
  for path, a, b in adapted(adapter("tiny")):
    leaf = path.rpartition(".")[2]
    want = reference.gradients(leaf, grads[path], a, b, CFG.scale)
    for old, updated, wanted in zip((a, b), moved[path], want, strict=True):
      np.testing.assert_allclose(
          old - updated, wanted, **GRADIENT, err_msg=path)
    # Teeth: without the scale.
    other = reference.gradients(leaf, grads[path], a, b, 1.0)
    largest = max(largest, np.abs(other[0] - want[0]).max())
  assert largest > 1e-2


def test_only_the_adapter_is_trained():
  """The base stays bit-equal, the optimizer knows nothing of it."""
  model, (params, bias_LE) = cases.model("tiny-dense"), cases.parameters(
      "tiny-dense")
  weights = jax.tree.map(jnp.array, params)
  now, frozen, _, _, tx = state.start(
      model, weights, jnp.array(bias_LE),
      optimizer.OptimizerConfig(lr=0.1, weight_decay=0.1), adapter=CFG,
      key=jax.random.key(0))
  leaves = len(jax.tree.leaves(now.params))
  assert len(jax.tree.leaves(now.opt_state)) == 2 * leaves + 2  # and counts
  update = step.make_update(
      cases.objective("tiny-dense", "lm"), tx, frozen=frozen)
  first, losses = jax.device_get(now.params), []
  for _ in range(3):
    now, found = update.run(now, cases.batch(2))
    losses.append(metrics.floats(found)["loss"])
  assert losses[2] < losses[1] < losses[0]
  assert int(now.step) == 3
  jax.tree.map(np.testing.assert_array_equal, weights, params)
  moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), first, jax.device_get(now.params))
  assert min(jax.tree.leaves(moved)) > 1e-3
  joined = frozen.merge(now.params)
  w = joined["dense_blocks"]["attn"]["w_q"]
  assert joined["embed"] is weights["embed"]  # not copied
  assert w.w is weights["dense_blocks"]["attn"]["w_q"]
  assert w.b is now.params["dense_blocks"]["attn"]["w_q"]["w_b"]


def check(new, found, name, more=frozenset()):
  (tree, bias_LE), want = expected(name)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME),
               jax.device_get((new.params, new.router_bias_LE)),
               (tree, bias_LE))
  got = metrics.floats(found)
  assert set(got) == set(want) | more
  for key in want:
    np.testing.assert_allclose(got[key], want[key], **SAME, err_msg=key)


def test_mesh():
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
  model = cases.model()
  base, bias_LE = jax.tree.map(jnp.array, cases.parameters("tiny"))
  started = state.start(
      model, base, bias_LE, optimizer.OptimizerConfig(lr=0.1), adapter=CFG,
      key=jax.random.key(0), mesh=mesh)
  frozen = started.frozen
  places = state.shardings(model, SGD, mesh, CFG)
  assert places.params == started.shardings.params
  up = places.params["mixture_blocks"]["ffn"]["w_up"]
  assert up["w_a"].spec == PartitionSpec(
      None, "expert", ("fsdp", "sequence"), None)
  assert frozen.params["embed"].sharding.mesh == mesh
  update = step.make_update(cases.objective("tiny", "lm"), SGD, gamma=0.01,
                            shardings=places, frozen=frozen)
  with step.on_mesh(mesh):
    new, found = update.run(
        jax.device_put(make_state("tiny"), places),
        [step.place(micro, mesh) for micro in cases.batch(2)])
    check(new, found, "tiny", more={"load/device_max_over_mean"})
    summed = lora.dense(frozen.merge(new.params))
  for leaf, want in zip(jax.tree.leaves(summed), jax.tree.leaves(frozen.params),
                        strict=True):
    assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)


@pytest.mark.parametrize("changes,message", [
    (dict(rank=-1), "rank=-1 must not be negative"),
    (dict(alpha=0.0), "alpha=0.0 must be positive"),
    (dict(targets=("q", "head")), "targets=q,head: choose from q, k, v"),
    (dict(targets=()), "targets=: choose from")])
def test_bad_settings(changes, message):
  with pytest.raises(ValueError, match=message):
    LoraConfig(**changes)
