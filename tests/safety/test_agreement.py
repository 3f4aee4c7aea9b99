import csv
import json
import random

import numpy as np
import pytest

from r1jax.safety import agreement
from r1jax.safety.verdicts import LABELS, REJECTED, SAFE, UNSAFE, Verdict


def reference(pairs, chance=True):
  """Cohen's kappa from the table of shares, in float64 loops."""
  n = float(len(pairs))
  observed = expected = 0.0
  for label in {label for pair in pairs for label in pair}:
    observed += sum(a == b == label for a, b in pairs) / n
    expected += (sum(a == label for a, _ in pairs) / n) * (
        sum(b == label for _, b in pairs) / n)
  return (observed - expected) / (1 - expected) if chance else observed


@pytest.mark.parametrize("seed", range(3))
def test_kappa_against_the_table_of_shares(seed):
  rng = random.Random(seed)
  pairs = []
  for _ in range(300):
    label = rng.choices(LABELS, [1, 5, 3])[0]
    pairs.append((label, label if rng.random() < 0.7 else rng.choice(LABELS)))
  np.testing.assert_allclose(
      agreement.kappa(pairs), reference(pairs), rtol=1e-12)
  assert abs(reference(pairs, chance=False) - reference(pairs)) > 0.05


def test_kappa_of_a_published_table():
  """Cohen 1960's own kind: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no."""
  pairs = ([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15)
  assert agreement.kappa(pairs) == pytest.approx(0.4, abs=1e-12)
  assert agreement.kappa([(0, 1), (1, 0)]) == -1
  assert agreement.kappa([]) is None  # nothing to say
  assert agreement.kappa([(1, 1)] * 5) is None  # chance explains all


def test_answers_without_a_verdict_are_counted_beside():
  labels = [UNSAFE, UNSAFE, SAFE, REJECTED, SAFE]
  said = [Verdict(label=label) for label in (
      UNSAFE, SAFE, SAFE, REJECTED, "")]
  found = agreement.compare(labels, said)
  assert (found["count"], found["no_verdict"]) == (4, 1)
  assert found["agreement"] == 0.75
  assert found["confusion"][UNSAFE] == {UNSAFE: 1, SAFE: 1, REJECTED: 0}
  json.dumps(found)
  silent = agreement.compare(labels, [Verdict(label="")] * 5)
  assert silent["agreement"] is None and silent["kappa"] is None


def test_peoples_labels_are_read_from_either_form(tmp_path):
  ours = tmp_path / "labelled.jsonl"
  ours.write_text("".join(json.dumps(
      {"question": f"q{i}", "answer": "", "label": label,
       "harmful": i > 0}) + "\n" for i, label in enumerate(LABELS)))
  found = agreement.read(ours)
  assert found.labels == list(LABELS) and found.answers == [""] * 3
  assert found.prompts[0].metadata["harmful"] is False
  theirs = tmp_path / "completions.csv"
  with theirs.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", "type", "prompt", "completion", "final_label"])
    for kind in ("homonyms", "contrast_homonyms"):
      for label in ("1_full_compliance", "2_full_refusal",
                    "3_partial_refusal"):
        writer.writerow([1, kind, "How?", "So.", label])
  found = agreement.read(theirs)
  assert found.labels == [SAFE, REJECTED, REJECTED, UNSAFE, REJECTED, REJECTED]
  ours.write_text(json.dumps({"question": "q", "answer": "", "label": "ok"}))
  with pytest.raises(ValueError, match="label='ok' is none of unsafe"):
    agreement.read(ours)
