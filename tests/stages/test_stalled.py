import types

import numpy as np

from r1jax.stages import stalled


def scored(reasons, truncated=0):
  cut = np.zeros((1, len(reasons)), bool)
  cut[0, :truncated] = True
  return types.SimpleNamespace(
      reasons=(tuple({"accuracy": r} if r else {"format": "x"}
                     for r in reasons),),
      rollout=types.SimpleNamespace(truncated_QG=cut))


def said(rounds, shares, **kwargs):
  watch, texts = stalled.Stalled(), []
  for reasons, share in zip(rounds, shares, strict=True):
    watch.add(scored(reasons, **kwargs))
    texts.append(watch.said(share))
  return texts


def test_it_says_why_after_so_many_steps_and_at_twice_as_many():
  n = stalled.AFTER
  texts = said([["no answer"] * 3 + ["wrong"]] * 2 * n, [1.0] * 2 * n)
  assert [bool(text) for text in texts] == (
      [False] * (n - 1) + [True] + [False] * (n - 1) + [True])
  assert "'no answer' 75%, 'wrong' 25%" in texts[n - 1]
  assert "--rewards.extract=last" in texts[n - 1]
  assert texts[-1].startswith(f"for {2 * n} steps")


def test_one_group_with_variance_begins_anew():
  n = stalled.AFTER
  texts = said([["wrong"]] * 2 * n, [1.0] * (n - 1) + [0.9] + [1.0] * n)
  assert [bool(text) for text in texts] == [False] * (2 * n - 1) + [True]


def test_remedies_by_what_is_seen():
  n = stalled.AFTER
  assert "too hard" in said([["wrong"]] * n, [1.0] * n)[-1]
  assert "too easy" in said([["correct"]] * n, [1.0] * n)[-1]
  cut = said([["no answer"] * 4] * n, [1.0] * n, truncated=3)[-1]
  assert "75% are truncated" in cut and "--max_new_tokens" in cut
  assert said([[""]] * n, [1.0] * n)[-1].endswith("nothing was learned.")
