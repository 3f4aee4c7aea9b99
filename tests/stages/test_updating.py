"""What the learner keeps fixed, refreshes and leaves out."""

import jax
import numpy as np
import pytest

from r1jax.losses.policy import PolicyConfig
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import grpo, updating
from r1jax.training import metrics as metrics_lib
from r1jax.training import objectives, step
from r1jax.training.advantages import AdvantageConfig, group_advantages
from tests.stages import cases

# The same sums in another order.
GRADIENTS = dict(rtol=1e-5, atol=1e-6)
LOGP = dict(rtol=0, atol=1e-5)
REWARDS = np.random.default_rng(3).normal(size=(8, 2))


def sample(policy, record_experts=False):
  judge, prompts = cases.judge(), cases.prompts()[:8]
  engine = Engine(policy.model, SamplingConfig(
      max_new_tokens=12, record_experts=record_experts),
      judge.tokenizer.eos_ids)
  return engine.generate(
      policy.params, policy.router_bias_LE, [judge.tokens(p) for p in prompts],
      [p.id for p in prompts], 2, jax.random.key(1))


def advantages(rollout, valid=True):
  return group_advantages(
      REWARDS, np.broadcast_to(valid, REWARDS.shape), rollout.truncated_QG,
      AdvantageConfig(normalize="none"))


class Watched(updating.Learner):
  """Keeps what went into and came out of every update."""

  def __init__(self, *args):
    super().__init__(*args)
    update, self.seen = self._update, []

    def watched(state, batch):
      state, metrics = update(state, batch)
      self.seen.append((jax.device_get(batch), metrics_lib.floats(metrics),
                        jax.device_get(state.params)))
      return state, metrics

    self._update = watched


def test_two_epochs_of_four_minibatches():
  cfg = cases.config(minibatches=4, epochs=2, micro_rows=4, reference_every=3)
  policy = cases.policy(cases.DENSE)
  rollout = sample(policy)
  learner = Watched(cfg, policy, None)
  order = grpo.shuffled(cfg, 0)
  assert sorted(np.concatenate(order)) == list(range(16))
  fixed = learner.fixed_logprobs(
      [grpo.pack(rollout, cfg, part) for part in order])
  metrics = learner.update(
      [grpo.pack(rollout, cfg, part, advantages(rollout)) for part in order],
      fixed)
  assert learner.updates == len(learner.seen) == 8

  # The old policy is the one that sampled, in both epochs.
  for first, second in zip(learner.seen[:4], learner.seen[4:], strict=True):
    cases.same(first[0], second[0])
    mask = first[0].mask_BT > 0
    np.testing.assert_allclose(
        first[0].old_logprobs_BT[mask], first[0].sampler_logprobs_BT[mask],
        **LOGP)
  ratios = [numbers["ratio"] for _, numbers, _ in learner.seen]
  assert ratios[0] == pytest.approx(1, abs=1e-6)
  assert max(abs(r - 1) for r in ratios[1:]) > 1e-3
  assert metrics["policy/ratio"] == pytest.approx(np.mean(ratios), abs=0.1)
  assert metrics["rollout/logp_diff_max"] <= 1e-5

  # Refreshed after updates 3 and 6, and not since.
  cases.same(jax.device_get(learner.reference["params"]), learner.seen[5][2])
  moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), learner.seen[5][2], learner.seen[7][2])
  assert max(jax.tree.leaves(moved)) > 0


def test_one_update_needs_no_old_policy():
  policy = cases.policy(cases.DENSE)
  batches = [grpo.pack(sample(policy), cases.CONFIG, np.arange(16))]
  (fixed,) = updating.Learner(cases.CONFIG, policy, None).fixed_logprobs(
      batches)
  assert fixed.keys() == {"ref_logprobs_BT"}
  plain = cases.config(policy=PolicyConfig())
  assert updating.Learner(plain, policy, None).fixed_logprobs(batches) == [{}]


def test_experts_that_were_not_the_routers_are_flips():
  cfg = cases.config(replay_experts=True)
  policy = cases.policy()
  rollout = sample(policy, record_experts=True)
  batch = grpo.pack(rollout, cfg, np.arange(16), advantages(rollout))
  others = batch.replace(
      experts_BTLA=(batch.experts_BTLA + 1) % policy.model.cfg.n_experts)
  learner = updating.Learner(cfg, policy, None)
  fixed = learner.fixed_logprobs([others])
  metrics = learner.update([others], fixed)
  assert metrics["rollout/flip_rate"] > 0.5
  assert metrics["rollout/logp_diff_max"] > 1e-3


def test_samples_without_a_verdict_are_as_if_they_were_not_there():
  """Gradients of 16 samples, two of them invalid, and of the other 14."""
  cfg, policy = cases.CONFIG, cases.policy()
  rollout = sample(policy)
  valid_QG = np.ones((8, 2), bool)
  valid_QG[0, 1] = valid_QG[5, 0] = False
  objective = objectives.grpo_objective(policy.model, cfg.policy)
  learner = updating.Learner(cfg, policy, None)
  learner.reference["params"] = jax.tree.map(
      lambda x: 1.1 * x, learner.reference["params"])
  gradients = jax.jit(lambda state, batch: step.gradients(
      objective, state, batch)[0].gradients)

  def measured(part, found):
    batch = grpo.pack(rollout, cfg, part, found)
    (fixed,) = learner.fixed_logprobs([batch])
    micro = step.split(batch, 1).replace(**fixed)
    return jax.device_get(gradients(learner.state, micro))

  found = advantages(rollout, valid_QG)
  every, kept = np.arange(16), np.flatnonzero(valid_QG.reshape(-1))
  masked, without = measured(every, found), measured(kept, found)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **GRADIENTS),
               masked, without)
  # Their advantage is 0, but the KL penalty would speak of them.
  trained = measured(every, found._replace(keep_QG=np.ones((8, 2), bool)))
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), masked, trained)
  assert max(jax.tree.leaves(gaps)) > 1e-3
