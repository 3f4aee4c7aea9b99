"""The log-probabilities that are compared with the update's own."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.training import metrics
from r1jax.training.logprobs import make_logprobs
from r1jax.training.objectives import flips
from tests.training import cases

F32 = dict(rtol=1e-5, atol=1e-6)
TEMPERATURE = 0.8


def test_equal_to_the_whole_logits_and_to_the_update():
  start = cases.make_state()
  batch = cases.batch(2)
  model = cases.model()
  one = batch[1]
  got, entropy = make_logprobs(model, TEMPERATURE)(
      start.params, start.router_bias_LE, one)
  assert got.shape == entropy.shape == one.tokens_BT.shape

  objective = cases.objective("tiny", "grpo")

  @jax.jit
  def both(params, bias_LE, one):
    out = model.forward(params, bias_LE, one.tokens_BT, one.positions_BT,
                        one.segments_BT)
    logits = out.hidden_BTD @ model.head(params) / TEMPERATURE
    recorded = one.replace(
        old_logprobs_BT=got, ref_logprobs_BT=got,
        sampler_logprobs_BT=got + 0.5,
        experts_BTLA=(out.experts_BTLA + 1) % 8)
    return (jax.nn.log_softmax(logits),
            objective.evaluate(params, bias_LE, recorded.replace(
                experts_BTLA=out.experts_BTLA)),
            objective.evaluate(params, bias_LE, recorded))

  logp_BTV, result, other = both(start.params, start.router_bias_LE, one)
  want = jnp.take_along_axis(logp_BTV, one.targets_BT[..., None], -1)[..., 0]
  np.testing.assert_allclose(got, want, **F32)
  np.testing.assert_allclose(
      entropy, -jnp.sum(jnp.exp(logp_BTV) * logp_BTV, -1), **F32)

  found = metrics.floats(result.metrics)
  np.testing.assert_allclose(
      [found["ratio"], found["kl"], found["logp_diff"],
       found["logp_diff_max"], found["flip_rate"]],
      [1.0, 0.0, 0.5, 0.5, 0.0], **F32)
  # Teeth: other experts are noticed, and make another policy.
  found = metrics.floats(other.metrics)
  assert found["flip_rate"] > 0.9
  assert abs(found["ratio"] - 1) > 1e-2


def test_flips():
  chosen = np.zeros((1, 3, 2, 2), np.int32) + [1, 4]
  recorded = chosen[..., ::-1].copy()  # the order does not matter
  recorded[0, 1, 0] = [1, 5]
  recorded[0, 2] = [6, 7]  # padding
  segments_BT = np.array([[1, 1, 0]])
  got = flips(jnp.asarray(chosen), jnp.asarray(recorded), segments_BT)
  assert tuple(map(float, got)) == (1.0, 4.0)
