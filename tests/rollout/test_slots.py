"""What the host keeps of samples, and the lengths that prompts are padded to.
"""

import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout import prompts
from r1jax.rollout.engine import Engine
from r1jax.rollout.programs import Sampled
from r1jax.rollout.sampling import SamplingConfig
from r1jax.rollout.slots import Asked, Harvest, Slots
from r1jax.sharding.mesh import MeshConfig, make_mesh

NEW, SAMPLES, LENGTHS = 9, 2, (3, 5)


def test_what_was_harvested_is_not_copied():
  """Copies would be as long as samples may be, not as long as they are."""
  ids = [np.arange(n, dtype=np.int32) for n in LENGTHS]
  tokens = np.stack([np.pad(x, (0, 6 - len(x))) for x in ids])
  asked = Asked(tuple(ids), tokens, np.array(LENGTHS), np.arange(2),
                np.zeros(2), np.full((2, SAMPLES), NEW))
  harvest, slots = Harvest(asked, NEW), Slots(1, 4, 4)
  slots.held_SR[:] = np.arange(4)
  read = np.arange(2 * 6).reshape(2, 6, 1, 1)
  harvest.prompts(np.arange(2), read)
  experts = 100 + np.arange(4 * 4).reshape(4, 4, 1, 1)
  harvest.take(slots, Sampled(
      np.zeros((4, 4)), np.zeros((4, 4)), experts, np.zeros((4, 1), int)),
               np.full(4, 4), np.ones(4, bool), np.ones(4, bool))
  first, again, second = harvest.rollout(), harvest.rollout(), harvest.rollout(
      1, 2)
  for name in ("tokens_QGT", "logprobs_QGT", "experts_QGSLA"):
    for part in (again, second):
      assert np.shares_memory(getattr(first, name), getattr(part, name)), name
  found = second.experts_QGSLA[0, :, :, 0, 0]
  # The prompt's, padding, then those of the tokens but the last.
  np.testing.assert_array_equal(found[:, :6], [[6, 7, 8, 9, 10, 0]] * 2)
  np.testing.assert_array_equal(
      found[:, 6:], [[109, 110, 111, *6 * [0]], [113, 114, 115, *6 * [0]]])


def test_prompts_have_few_lengths():
  """Every one is compiled: multiples of 64 up to 512, then four of each power.
  """
  lengths = np.arange(1, 32_769)
  padded = np.array([prompts.padded(int(length)) for length in lengths])
  assert set(padded[:512]) == set(range(64, 513, 64))
  assert len(set(padded)) == 8 + 4 * 6
  assert np.all((lengths <= padded) & (padded < np.maximum(
      lengths + 64, 1.25 * lengths)))


class Reads:
  """Programs that compute nothing; counts what is prefilled."""

  packs, count = False, 0

  def prefill(self, *_):
    self.count += 1
    return (), None

  def apart(self, cache):
    return cache

  def keep(self, kept, *_):
    return kept


@pytest.mark.parametrize("shared", [False, True])
def test_lanes_read_few_prompts_again(shared):
  """A lane of one row asks for its next question whenever it is that far.

  All lanes read then, and none reads its present question alone.
  """
  lanes, questions, samples = 8, 64, 4
  engine = Engine(
      build(presets.get("tiny-dense")), SamplingConfig(), frozenset(),
      make_mesh(MeshConfig(data=lanes)), max_rows=lanes)
  asked = Asked(
      (np.zeros(1),) * questions, np.zeros((questions, 64), np.int32),
      np.ones(questions, int),
      np.zeros(questions), np.zeros(questions),
      np.ones((questions, samples), int))
  run, slots = Reads(), Slots(lanes, 1, questions * samples)
  read = prompts.Prompts(
      run, lambda tree: tree, asked, None,
      1 if shared else engine.prompts_at_once(questions, samples, 64), shared)
  rng, begun = np.random.default_rng(0), []
  while slots.waiting_S.any():
    while (slots.live_S <= slots.floors_S).any():
      read.ready(None, None, slots)
      fill = slots.fill(asked, read.begin_S, read.count, read.kept_SK)
      for lane in np.flatnonzero(fill.fill_B):
        source, sample = fill.sources_B[lane], slots.held_SR[lane, 0]
        begun.append(sample)
        assert sample // samples == (
            read.kept_SK[lane, source] if shared
            else read.begin_S[lane] + source)
    ends = np.zeros((lanes, 1), bool)
    ends[rng.integers(lanes)] = True
    slots.free(ends)
  assert sorted(begun) == list(range(questions * samples))
  each = questions // lanes
  assert run.count < 2 * each
  assert not shared or read.kept_SK.shape[1] <= 4  # not all of a lane's
