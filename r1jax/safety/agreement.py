"""How far a judge agrees with people: nobody trusts a judge unmeasured."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from r1jax.data.sources.builders.rows import BadRow, Row
from r1jax.safety.verdicts import (
  LABELS,
  REJECTED,
  SAFE,
  UNSAFE,
  Verdict,
  is_harmful,
)

# XSTest's names of what an answer does; its authors count a partial refusal as
# a refusal.
_XSTEST = {"1_full_compliance": "", "2_full_refusal": REJECTED,
           "3_partial_refusal": REJECTED}


class Labelled(NamedTuple):
  """Answers that people have labelled, one each, and the malformed rows."""

  prompts: list[Prompt]
  answers: list[str]
  labels: list[str]
  bad: list[BadRow]


def read(path: str | os.PathLike) -> Labelled:
  """Answers with people's labels.

  JSON Lines (or a CSV) of {"question", "answer", "label": unsafe, safe or
  rejected}, with "language", "category", "subcategory", "harmful" and "scale"
  where they matter; or a CSV of XSTest's model_completions/ (prompt, type,
  completion, final_label), where to comply with an unsafe prompt is unsafe.

  Raises:
    ValueError: more than 1 % of the rows are malformed.
  """
  labels: dict[int, str] = {}
  answers: dict[int, str] = {}

  def parse(row: Row) -> Prompt:
    xstest = "final_label" in row.fields
    question = rows.text(row.fields, "prompt" if xstest else "question")
    metadata = {name: row.fields[name] for name in (
        "category", "subcategory", "harmful", "scale") if name in row.fields}
    if isinstance(metadata.get("harmful"), str):
      metadata["harmful"] = metadata["harmful"].strip().lower() == "true"
    if xstest:
      metadata = {"set": "xstest", "scale": "refuse", "harmful": rows.text(
          row.fields, "type").startswith("contrast_")}
    prompt = Prompt(
        id=row.number, domain="general", source=epath.Path(path).stem,
        messages=ask(question), reference=None, verifier="",
        language=str(row.fields.get("language", "en")), metadata=metadata)
    labels[row.number] = _label(row, prompt)
    answers[row.number] = str(
        row.fields.get("completion" if xstest else "answer", ""))
    return prompt

  read_as = rows.table if str(path).endswith(".csv") else rows.jsonl
  items = list(read_as([epath.Path(path)], parse))
  prompts = [item for item in items if isinstance(item, Prompt)]
  return Labelled(prompts, [answers[p.id] for p in prompts],
                  [labels[p.id] for p in prompts],
                  [item for item in items if isinstance(item, BadRow)])


def compare(labels: Sequence[str], verdicts: Sequence[Verdict]
            ) -> dict[str, Any]:
  """A judge beside people; JSON-ready.

  Returns:
    `count` of answers that both have labelled, `no_verdict` those that the
    judge has not; `agreement`, the share of equal labels; `kappa`, and
    `unsafe_kappa` of unsafe against the rest; `confusion`: people's label ->
    judge's -> count. None where nothing counts, or where kappa is undefined
    since both give one label alone.
  """
  pairs = [(label, verdict.label) for label, verdict in zip(
      labels, verdicts, strict=True) if verdict.label]
  table = collections.Counter(pairs)
  return {
      "count": len(pairs), "no_verdict": len(labels) - len(pairs),
      "agreement": (sum(a == b for a, b in pairs) / len(pairs)
                    if pairs else None),
      "kappa": kappa(pairs),
      "unsafe_kappa": kappa([(a == UNSAFE, b == UNSAFE) for a, b in pairs]),
      "confusion": {a: {b: table[a, b] for b in LABELS} for a in LABELS}}


def kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
  """Cohen's kappa (Educ. Psychol. Meas. 20:37), unweighted.

  kappa = (p_o - p_e) / (1 - p_e), p_o the share of equal labels, p_e what it
  would be by chance with either one's shares of labels.
  """
  n = len(pairs)
  first, second = (collections.Counter(side) for side in zip(*pairs)) if (
      pairs) else ({}, {})
  # In counts: exact up to the one division.
  by_chance = sum(first[label] * second[label]
                  for label in set(first) & set(second))
  if n * n == by_chance:
    return None
  return (n * sum(a == b for a, b in pairs) - by_chance) / (n * n - by_chance)


def _label(row: Row, prompt: Prompt) -> str:
  if "final_label" in row.fields:
    said = row.fields["final_label"]
    check(said in _XSTEST, f"final_label={said!r} is none of"
          f" {', '.join(_XSTEST)}")
    return _XSTEST[said] or (UNSAFE if is_harmful(prompt) else SAFE)
  said = row.fields.get("label")
  check(said in LABELS, f"label={said!r} is none of {', '.join(LABELS)}")
  return said
