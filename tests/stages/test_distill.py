"""A student beside its teacher in the loop of GRPO."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.models.model import build
from r1jax.report import writer
from r1jax.stages import grpo
from r1jax.stages.learner import Learner
from r1jax.stages.weights import Weights
from r1jax.training import metrics
from r1jax.training.logprobs import make_logprobs
from r1jax.training.lora import LoraConfig
from tests.stages import cases
from tests.training import cases as batches

F32 = dict(rtol=1e-5, atol=1e-6)
TEMPERATURE = 0.7


def teacher():
  """Of another shape, and of a vocabulary that is padded further."""
  model = build(dataclasses.replace(
      cases.DENSE, vocab_size=520, d_model=2 * cases.DENSE.d_model))
  params = jax.jit(model.init)(jax.random.key(5))
  return Weights(model, params, model.init_router_bias())


def learner(distill, taught, **changes):
  cfg = cases.config(row_length=batches.ROW, temperature=TEMPERATURE,
                     policy=PolicyConfig(), distill=distill, **changes)
  return Learner(cfg, cases.handed(), None, taught)


def step(found):
  """One update; (its batch with what was fixed, its metrics)."""
  (micro,) = batches.batch(1)
  batch = jax.tree.map(np.asarray, micro).replace(
      ref_logprobs_BT=None, old_logprobs_BT=None)
  placed = found.placed(batch)
  ((fixed,),) = found.fixed_logprobs([placed])
  whole = placed[0].replace(**fixed)
  return whole, metrics.floats(found.update([whole]))


def test_the_teachers_logprobs_are_at_the_students_temperature():
  taught = teacher()
  batch, numbers = step(learner(DistillConfig(factor=1.0, reward=0.0), taught))
  score = make_logprobs(taught.model, TEMPERATURE)
  want_BT, _ = score(taught.params, taught.router_bias_LE, batch)
  np.testing.assert_allclose(batch.teacher_logprobs_BT, want_BT, **F32)
  student = cases.policy()
  own_BT, _ = make_logprobs(student.model, TEMPERATURE)(
      student.params, student.router_bias_LE, batch)
  gap = (own_BT - want_BT)[batch.mask_BT > 0].mean()
  np.testing.assert_allclose(numbers["teacher_kl"], gap, rtol=1e-4)
  cold_BT, _ = make_logprobs(taught.model, 1.0)(
      taught.params, taught.router_bias_LE, batch)
  assert np.abs(cold_BT - want_BT).max() > 1e-2


@pytest.mark.parametrize("changes", [
    {}, dict(lora=LoraConfig(rank=2))], ids=str)
def test_the_divergence_is_that_of_whole_logits(changes):
  """And the teacher stays what it was."""
  taught = teacher()
  before = jax.tree.map(np.asarray, taught.params)
  found = learner(DistillConfig(divergence=1.0, reward=0.0, beta=0.3), taught,
                  **changes)
  batch, numbers = step(found)
  assert batch.teacher_logprobs_BT is None
  student = cases.policy()

  def logs(model, params, bias_LE):
    out = jax.jit(model.forward)(params, bias_LE, batch.tokens_BT,
                                 batch.positions_BT, batch.segments_BT)
    logits = out.hidden_BTD @ model.head(params)[:, :512]
    return jax.nn.log_softmax(logits / TEMPERATURE)

  q, p = logs(*student), logs(*taught)
  m = jnp.log(0.7 * jnp.exp(q) + 0.3 * jnp.exp(p))
  want_BT = jnp.sum(0.3 * jnp.exp(p) * (p - m) + 0.7 * jnp.exp(q) * (q - m), -1)
  want = want_BT[batch.mask_BT > 0].mean()
  np.testing.assert_allclose(numbers["loss/distill"], want, rtol=1e-4)
  np.testing.assert_allclose(numbers["loss"], want, rtol=1e-4)
  cases.same(jax.tree.map(np.asarray, found.teacher.params), before)


def test_a_run_comes_nearer_to_its_teacher(tmp_path):
  """The loop as it is, without a reward; resumed, it ends the same."""
  def run(workdir, steps):
    return grpo.run(
        cases.config(steps=steps, policy=PolicyConfig(),
                     distill=DistillConfig(factor=1.0, reward=0.0)),
        cases.handed(cases.DENSE), cases.judge(), cases.prompts(), workdir,
        teacher=teacher())

  whole = run(tmp_path / "whole", 6)
  gaps = [row["policy/teacher_kl"] for row in writer.read(tmp_path / "whole")]
  assert len(gaps) == 6 and np.mean(gaps[3:]) < np.mean(gaps[:3])
  run(tmp_path / "parts", 2)
  cases.same(run(tmp_path / "parts", 6).params, whole.params)


def test_a_teacher_must_be_given_and_used(tmp_path):
  for distill, taught in ((DistillConfig(factor=1.0), None),
                          (DistillConfig(), teacher())):
    with pytest.raises(ValueError, match="they need a teacher"):
      grpo.run(cases.config(distill=distill), cases.handed(), cases.judge(),
               cases.prompts(), tmp_path, teacher=taught)
  with pytest.raises(ValueError, match="driver='pmap' takes no teacher"):
    cases.config(driver="pmap", distill=DistillConfig(factor=1.0))
  assert not list(tmp_path.iterdir())
