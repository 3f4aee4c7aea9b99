"""GRPO from prompts to parameters, on a model of a few thousand of them."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.accounting import flops
from r1jax.checkpoint.manager import Manager
from r1jax.core import io
from r1jax.report import rollouts, writer
from r1jax.rewards.combine import Combine
from r1jax.rewards.pool.runner import Pool
from r1jax.rewards.rules import RULES
from r1jax.rewards.score import Score
from r1jax.sharding import mesh as mesh_lib
from r1jax.stages import grpo, weights
from r1jax.training import guard
from r1jax.training.advantages import AdvantageConfig
from tests.stages import cases

LOGP = 1e-5
SAME_UPDATE = dict(rtol=0, atol=1e-5)

METRICS = {
    "reward/accuracy", "reward/format", "reward/combined",
    "rollout/length_mean", "rollout/length_max", "rollout/truncated_fraction",
    "rollout/tokens_per_s", "rollout/logp_diff", "rollout/logp_diff_max",
    "update/tokens_per_s", "advantage/zero_variance_fraction",
    "advantage/invalid_fraction", "policy/entropy", "policy/kl",
    "policy/ratio", "policy/clip_low_fraction", "policy/clip_high_fraction",
    "policy/ratio_clamped_fraction",
    "loss", "loss/policy", "grad_norm", "skipped", "load/max_over_mean",
    "load/dead_fraction", "seconds/rollout", "seconds/logprobs",
    "seconds/rewards", "seconds/update", "rewards/wait_fraction",
    "rewards/invalid_fraction", "compile/programs", "compile/seconds"}


def train(workdir, *, policy=None, pool=None, mesh=None, **changes):
  """Rows of the log and the weights of a run."""
  found = grpo.run(
      cases.config(**changes), policy or cases.handed(), cases.judge(pool),
      cases.prompts(), workdir, mesh=mesh)
  return writer.read(workdir), found


def test_every_metric_is_logged_at_every_step(smoke):
  rows = writer.read(smoke.workdir)
  assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
  assert rows[0].keys() == rows[2].keys() - METRICS  # the base's evaluation
  for row in rows[1:]:
    assert METRICS <= row.keys()
    assert all(np.isfinite(row[name]) for name in METRICS)
  assert [("eval/pass1" in row) for row in rows] == [True, False] * 2 + [True]


def test_sampler_and_trainer_agree(smoke):
  rows = writer.read(smoke.workdir)[1:]
  assert all(0 < row["rollout/logp_diff"] < row["rollout/logp_diff_max"] <= LOGP
             for row in rows)


def test_metrics_are_those_of_the_samples(smoke):
  row = writer.read(smoke.workdir)[3]
  samples = rollouts.read(smoke.workdir, 3)
  assert len(samples) == 16 and len({s["prompt_id"] for s in samples}) == 8
  for name, values in (
      ("reward/combined", [s["reward"] for s in samples]),
      ("reward/format", [s["rewards"]["format"] for s in samples]),
      ("rollout/length_mean", [s["length"] for s in samples]),
      ("rollout/truncated_fraction", [s["truncated"] for s in samples])):
    np.testing.assert_allclose(row[name], np.mean(values), rtol=1e-6)
  for prompt in {s["prompt_id"] for s in samples}:
    group = [s for s in samples if s["prompt_id"] == prompt]
    want = np.array([s["reward"] for s in group])
    want = (want - want.mean()) / (want.std() + 1e-6) * (np.ptp(want) > 0)
    np.testing.assert_allclose([s["advantage"] for s in group], want, rtol=1e-5)


def test_what_a_run_costs(smoke):
  """Tokens by hand; a sequence of n takes n - 1 places of a row."""
  cost = io.read_json(smoke.workdir / "cost.json")
  prompts = {p.id: len(cases.judge().tokens(p)) for p in cases.prompts()}
  read = sum(prompts[row["prompt_id"]] + row["length"] - 1
             for step in range(1, 5) for row in rollouts.read(
                 smoke.workdir, step))
  assert cost["passes"]["train"] == cost["passes"]["score"] == read
  rows = writer.read(smoke.workdir)[1:]
  for phase in ("rollout", "logprobs", "rewards", "update"):
    np.testing.assert_allclose(
        cost["phases"][phase], sum(row[f"seconds/{phase}"] for row in rows),
        rtol=1e-6)
  assert cost["phases"]["evaluate"] > 0
  assert sum(cost["phases"].values()) <= cost["seconds"]
  # Three forward passes for an update and one for the reference, and samples.
  assert cost["flops"] > 4 * read * 2 * flops.parameters(cases.MIXTURE).products


def test_the_policy_moves_and_the_reference_stays(smoke):
  rows = writer.read(smoke.workdir)[1:]
  assert rows[0]["policy/kl"] == 0 < rows[-1]["policy/kl"]
  assert all(row["policy/ratio"] == 1 for row in rows)  # on policy
  first = jax.tree.leaves(cases.policy().params)
  last = jax.tree.leaves(smoke.weights.params)
  assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, last))


def test_drafts_and_few_slots_change_no_step(smoke, tmp_path):
  rows, _ = train(tmp_path, steps=2, speculate=2, max_rows=4)
  assert all(1 > row["rollout/accepted_1"] >= row["rollout/accepted_2"] >= 0
             for row in rows)
  for found, wanted in zip(rows, writer.read(smoke.workdir)[1:3], strict=True):
    for name in ("reward/combined", "rollout/length_mean", "loss"):
      np.testing.assert_allclose(found[name], wanted[name], **SAME_UPDATE)
  for step in (1, 2):
    assert [s["completion"] for s in rollouts.read(tmp_path, step)] == [
        s["completion"] for s in rollouts.read(smoke.workdir, step)]


def test_nothing_compiles_after_the_first_step(smoke):
  assert smoke.compiled[0] == smoke.compiled[-1]
  assert min(smoke.compiled[0]) > 0


def test_the_reward_children_judge(tmp_path):
  """The real pool and rules: a random model's samples earn nothing."""
  rules = {name: RULES[name] for name in Combine().weights}
  with Pool(rules, workers=1) as pool:
    judge = cases.judge()._replace(pool=pool, rewards=Combine())
    grpo.run(cases.config(steps=1), cases.handed(cases.DENSE), judge,
             cases.prompts(), tmp_path)
  (row,) = writer.read(tmp_path)
  assert row["reward/accuracy"] == row["reward/format"] == 0
  assert row["advantage/zero_variance_fraction"] == 1
  assert row["advantage/invalid_fraction"] == 0
  assert row["grad_norm"] < 1e-5  # and the reference is the policy


class Failing(cases.Pool):
  """A rule of one's own that raises, at one step alone."""

  failing = 2

  def submit(self, items):
    future = super().submit(items)
    for scores in future.result() if self.step == self.failing else ():
      scores["accuracy"] = Score(0.0, False, "AttributeError: thought")
    return future


def test_a_rule_that_always_fails_is_heard_of(tmp_path, capsys):
  rows, _ = train(tmp_path, policy=cases.handed(cases.DENSE), pool=Failing())
  said = [line for line in capsys.readouterr().err.splitlines()
          if line.startswith("step")]
  assert said == ["step 2: no sample got a verdict (accuracy: AttributeError:"
                  " thought, format: checksum)"]
  assert [row["rewards/invalid_fraction"] for row in rows] == [0.0, 1.0, 0.0]


def test_a_first_step_without_any_verdict_ends_the_run(tmp_path):
  """Nothing would be learned, in silence, for the whole run."""
  pool = Failing()
  pool.failing = 1
  with pytest.raises(ValueError, match="no sample of the first step has a"
                     r" verdict \(accuracy: AttributeError: thought"):
    train(tmp_path, policy=cases.handed(cases.DENSE), pool=pool)
  assert not writer.read(tmp_path)[1:]


def test_a_stage_of_longer_completions(tmp_path):
  rows, _ = train(tmp_path, policy=cases.handed(cases.DENSE), steps=4,
                  max_new_tokens=(4, 12), stage_steps=(2,))
  longest = [row["rollout/length_max"] for row in rows]
  assert max(longest[:2]) == 4 < max(longest[2:]) <= 12


def test_replayed_experts_flip_nowhere_in_float32(tmp_path, smoke):
  rows, _ = train(tmp_path, replay_experts=True, steps=2)
  assert [row["rollout/flip_rate"] for row in rows] == [0, 0]
  plain = writer.read(smoke.workdir)[1]
  assert "rollout/flip_rate" not in plain
  # The same experts, the same update. Later the reference policy, which would
  # choose others by now, replays these too.
  np.testing.assert_allclose(
      rows[0]["grad_norm"], plain["grad_norm"], rtol=1e-4)


MESHES = {"mesh": dict(data=2, fsdp=2, expert=2),
          "long": dict(data=1, fsdp=2, expert=2, sequence=2)}


@pytest.mark.parametrize("name", [
    pytest.param("mesh", marks=pytest.mark.slow), "long", "pmap"])
def test_drivers_give_the_updates_of_one_device(tmp_path, smoke, name):
  """From the samples to the parameters, two steps."""
  changes = {"driver": "pmap"}
  if name in MESHES:
    changes = {"mesh": mesh_lib.make_mesh(
        mesh_lib.MeshConfig(**MESHES[name]))}
  rows, found = train(tmp_path, steps=2, **changes)
  for row, want in zip(rows, writer.read(smoke.workdir)[1:3], strict=True):
    for metric in ("grad_norm", "policy/kl", "policy/entropy",
                   "reward/combined", "load/max_over_mean"):
      np.testing.assert_allclose(
          row[metric], want[metric], rtol=1e-4, atol=1e-6, err_msg=metric)
  first = cases.policy().params
  manager = Manager(smoke.workdir / "checkpoints", read_only=True)
  want, _ = manager.restore(2, like={"params": first}, partial=True)
  manager.close()
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, want["params"])
  assert max(jax.tree.leaves(moved)) > 1e-2
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_UPDATE),
               jax.device_get(found.params), want["params"])


def test_a_gradient_that_is_not_finite_skips_one_step(tmp_path):
  """Rewards without scale, one of them enormous: its batch is kept."""
  pool = cases.Pool({2: Score(1e38, True, "enormous")})
  rows, found = train(
      tmp_path, policy=cases.handed(cases.DENSE), pool=pool, steps=3,
      advantages=AdvantageConfig(normalize="none"))
  assert [row["skipped"] for row in rows] == [0, 1, 0]
  assert rows[1]["grad_norm"] is None  # JSON has no infinity
  assert rows[2]["policy/kl"] > 0  # and it went on
  dumped = guard.load(tmp_path / "skipped/step_2.npz")
  assert np.abs(dumped.advantages_BT).max() > 1e37
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.params))


def test_three_in_a_row_stop_the_run_with_the_reason(tmp_path):
  policy = cases.policy(cases.DENSE)
  policy.params["embed"] = policy.params["embed"].at[0, 0].set(np.nan)
  with pytest.raises(FloatingPointError, match="steps 1, 2, 3 were skipped in"
                     " a row: .*grad_norm=nan.*lower the learning rate"):
    train(tmp_path, policy=weights.Handover(policy), steps=9)
  assert len(list((tmp_path / "skipped").iterdir())) == 3
  assert [row["skipped"] for row in writer.read(tmp_path)] == [1, 1, 1]


@pytest.mark.parametrize("changes,message", [
    (dict(row_length=300), "row_length is 300 tokens, the model's context"),
    (dict(row_length=12), "max_new_tokens=12 and a prompt do not fit"),
    (dict(micro_rows=20), "do not divide over 8 devices"),
    (dict(questions=4), "do not divide over 8 devices"),
    (dict(driver="pmap"), "takes no mesh")])
def test_what_does_not_fit_is_refused_before_the_workdir_is_taken(
    tmp_path, changes, message):
  mesh = mesh_lib.make_mesh()
  with pytest.raises(ValueError, match=message):
    train(tmp_path / "run", mesh=mesh, **changes)
  assert not (tmp_path / "run").exists()


def test_dense_models_have_no_experts_to_replay(tmp_path):
  with pytest.raises(ValueError, match="the model has no experts"):
    train(tmp_path, policy=cases.handed(cases.DENSE), replay_experts=True)


def test_a_workdir_of_another_config_is_left_alone(smoke):
  def contents():
    return {str(p): p.read_bytes() for p in smoke.workdir.rglob("*")
            if p.is_file()}

  before = contents()
  with pytest.raises(ValueError, match=r"eval_every: 2 -> 0\n"):
    train(smoke.workdir, temperature=0.5)
  assert contents() == before


def test_prompts_that_leave_no_room_name_the_remedy():
  cfg = dataclasses.replace(cases.CONFIG, row_length=30)
  assert cfg.prompt_limit(256) == 30 + 1 - 12
  assert cfg.prompt_limit(20) == 20 - 12


def test_the_settings_of_the_run_are_on_disk(smoke):
  saved = io.read_json(smoke.workdir / "config.json")["config"]
  assert saved["questions"] == 8 and saved["policy"]["kl_beta"] == 0.1
  assert saved["model"]["vocab_size"] == 512
