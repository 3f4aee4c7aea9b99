"""A conversation's score is read at its last token, and at no other."""

import jax
import numpy as np
import pytest

from r1jax.core.types import ConversationBatch
from r1jax.models import scalar_head
from r1jax.models.compute import Compute
from r1jax.models.model import build
from tests.stages import cases

TEXTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]
ROWS = [[0, 1], [2, 3]]
SAME = dict(rtol=1e-5, atol=1e-6)


def packed(rows, length=8):
  """Conversations by number in rows; (row, position) of each one's end."""
  shape = len(rows), length
  arrays = {name: np.zeros(shape, np.int32) for name in (
      "tokens_BT", "segments_BT", "positions_BT")}
  mask, ends = np.zeros(shape, np.float32), {}
  for b, row in enumerate(rows):
    at = 0
    for s, number in enumerate(row, 1):
      ids = TEXTS[number]
      here = b, slice(at, at + len(ids))
      arrays["tokens_BT"][here] = ids
      arrays["segments_BT"][here] = s
      arrays["positions_BT"][here] = range(len(ids))
      at += len(ids)
      mask[b, at - 1], ends[number] = 1, (b, at - 1)
  return ConversationBatch(
      mask_BT=mask, labels_BT=0 * mask, weights_BT=mask, **arrays), ends


@pytest.mark.parametrize("cfg", [cases.DENSE, cases.MIXTURE],
                         ids=["dense", "mixture"])
def test_scores(cfg):
  policy = cases.policy(cfg)
  model = scalar_head.over(cfg)
  params, bias_LE = scalar_head.grown(
      model, policy.params, policy.router_bias_LE, jax.random.key(3))
  assert jax.tree.structure(params) == jax.tree.structure(
      jax.eval_shape(model.init, jax.random.key(0)))
  assert bias_LE.shape == model.init_router_bias().shape
  batch, ends = packed(ROWS)
  scores_BT, _ = jax.jit(model.scores)(params, bias_LE, batch)
  head = np.asarray(params["score"], np.float64)[:, 0]
  alone, _ = packed([[number] for number in range(len(TEXTS))])
  out = jax.jit(policy.model.forward)(
      policy.params, policy.router_bias_LE, alone.tokens_BT,
      alone.positions_BT, alone.segments_BT)
  for number, ids in enumerate(TEXTS):
    states = np.asarray(out.hidden_BTD[number, :len(ids)], np.float64) @ head
    np.testing.assert_allclose(scores_BT[ends[number]], states[-1], **SAME)
    if len(ids) > 1:  # teeth: the token before has another score
      assert abs(states[-2] - states[-1]) > 1e-2
  # In other rows and another order the scores are the same.
  other, there = packed([[3, 0], [1], [2]])
  other_BT, _ = jax.jit(model.scores)(params, bias_LE, other)
  for number in range(len(TEXTS)):
    np.testing.assert_allclose(
        other_BT[there[number]], scores_BT[ends[number]], **SAME)


def test_every_parameter_has_axes_and_the_head_is_never_rounded():
  model = scalar_head.over(cases.MIXTURE, Compute(dtype="bfloat16"))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  axes = model.param_axes(shapes)
  is_names = lambda x: isinstance(x, tuple)
  flat = jax.tree.leaves(axes, is_leaf=is_names)
  assert [len(x) for x in flat] == [
      len(leaf.shape) for leaf in jax.tree.leaves(shapes)]
  assert axes["score"] == ("embed", None)
  cast = jax.eval_shape(model.cast, shapes)
  assert cast["score"].dtype == np.float32
  assert cast["embed"].dtype == jax.numpy.bfloat16
  assert not model.casts_nothing(shapes)
  assert "w_head" not in shapes and "mtp" not in shapes


def test_a_new_head_has_the_width_of_the_sources():
  model = scalar_head.over(cases.DENSE)
  heads = np.concatenate([np.asarray(model.init_head(jax.random.key(i)))
                          for i in range(60)])
  assert np.std(heads) == pytest.approx(
      (cases.DENSE.d_model + 1) ** -0.5, rel=0.05)
  assert build(cases.DENSE).cfg.d_model == len(model.init_head(
      jax.random.key(0)))
