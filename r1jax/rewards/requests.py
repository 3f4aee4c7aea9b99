"""The true utility of answers to general requests of the small world.

Training does not see it: reward models learn from noisy comparisons, and only
evaluations use this rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r1jax.core import scripts
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt
  from r1jax.rewards.response import Response

# Share of the utility that an answer loses if it is not concise or not polite.
_CONCISE, _POLITE = 0.3, 0.1


def verify(prompt: Prompt, response: Response) -> Score:
  """The utility of an answer, in [0, 1]; see `judge`."""
  parts = judge(prompt.reference, response.answer)
  value = utility(parts)
  return Score(value, True, "done" if parts["done"] == 1 else "not done",
               parts, answer=response.answer[:80] or None)


def utility(parts: Mapping[str, float]) -> float:
  """done x language x (1 - 0.3 (1 - concise) - 0.1 (1 - polite))."""
  return parts["done"] * parts["language"] * (
      1 - _CONCISE * (1 - parts["concise"]) - _POLITE * (1 - parts["polite"]))


def judge(reference: Mapping[str, Any], answer: str) -> dict[str, float]:
  """How well an answer does what was asked.

  Args:
    reference: `wanted`, texts of which the answer must have exactly `count`
      different ones, or the first of them `repeats` times; `others`, texts that
      must not occur; `language` of the answer; `polite`, texts of which a
      polite answer has one.
    answer: without its thought.

  Returns:
    done: 1 if exactly the wanted texts are there and no others; 0 if one of the
    others is there; else half the share of wanted texts. language: share of the
    words in the requested language. concise: 1 up to the needed length, falling
    to 0 at three times that. polite: 1 or 0.
  """
  wanted, count = reference["wanted"], reference["count"]
  there = [text for text in wanted if _has(answer, text)]
  if reference["repeats"] > 1:
    share = _times(answer, wanted[0]) / reference["repeats"]
    right = share == 1
  else:
    share = len(there) / count
    right = len(there) == count
  wrong = any(_has(answer, text) for text in reference["others"])
  done = float(right and not wrong)
  if not done:
    done = 0.0 if wrong else 0.5 * min(share, 1 / share if share > 1 else share)
  needed = sum(sorted(map(len, wanted))[-count:]) * reference["repeats"] + 12
  spare = len(answer.strip()) / needed
  return {"done": done, "language": _language(answer, reference["language"]),
          "concise": max(0.0, min(1.0, (3 - spare) / 2)),
          "polite": float(any(text in answer for text in reference["polite"]))}


def _has(answer: str, text: str) -> bool:
  return _times(answer, text) > 0


def _times(answer: str, text: str) -> int:
  """How often a text occurs, as a whole word if it is ASCII."""
  if not text.isascii():
    return answer.count(text)
  low, text, count, at = answer.lower(), text.lower(), 0, 0
  while (at := low.find(text, at)) >= 0:
    before, after = low[at - 1:at], low[at + len(text):at + len(text) + 2]
    inside = before.isalpha() and before.isascii()
    goes_on = (after[:1].isalpha() and after[:1].isascii()
               and after.rstrip(".,!? ") != "s")  # a plural is the word
    count += not inside and not goes_on
    at += len(text)
  return count


def _language(answer: str, language: str) -> float:
  counts = scripts.words_by_script(answer, 1)
  words = sum(counts.values())
  wanted = sum(counts.get(name, 0) for name in scripts.of_language(language))
  return wanted / words if words else 0.0

