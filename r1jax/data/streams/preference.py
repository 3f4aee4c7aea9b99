"""Preferences: pairs of answers, and answers with a label, as packed ids.

What rows may be is in `preference_rows`. A conversation is rendered to its
end: question, answer, and the id that ends it, where its score is read.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import ask
from r1jax.core.types import ConversationBatch
from r1jax.data.sources import preference_rows
from r1jax.data.sources.preference_rows import LeftOut, Row
from r1jax.data.streams import sft
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import Tokenizer

PAIRWISE, POINTWISE = "pairwise", "pointwise"
AUTO = "auto"  # the tokenizer's own chat template, else "plain"
_SHOWN = 10  # rows that are named


class Example(NamedTuple):
  """Conversations to be scored, as ids.

  Attributes:
    sides: int32 arrays: of a pair the preferred conversation and the other, of
      a labelled answer the one.
    label: of a pair its margin, of an answer how good it is, 0 to 1.
    weight: factor of the loss.
    source: where it is from, or "".
    answers: tokens of the last answer of every side.
    prompt: checksum of what was asked.
  """

  sides: tuple[np.ndarray, ...]
  label: float
  weight: float
  source: str
  answers: tuple[int, ...]
  prompt: int


class Data(NamedTuple):
  """What files hold, and what of it is left out.

  Attributes:
    examples: those that fit.
    left_out: reason -> a line `FILE:LINE: more` for each.
    split: pairs that were read as two labelled answers.
    rows: read in all.
  """

  examples: list[Example]
  left_out: dict[str, list[str]]
  split: int
  rows: int

  def explain(self, name: str) -> str:
    """What was read, in words."""
    kind = {0: "examples", 1: "labelled answers", 2: "pairs"}[
        len(self.examples[0].sides) if self.examples else 0]
    tokens = sum(len(ids) for e in self.examples for ids in e.sides)
    lines = [f"{name}: {len(self.examples)} {kind}, {tokens} tokens, of"
             f" {self.rows} rows"]
    if self.split:
      lines.append(
          f"{self.split} pairs are read as two answers each, the chosen one"
          " good and the rejected one bad, which a preference does not say")
    for reason, details in sorted(self.left_out.items()):
      lines.append(f"{len(details)} left out: {reason}")
      lines += [f"  {line}" for line in details[:_SHOWN]]
    return "\n".join(lines)


def template_for(template: str, tokenizer: Tokenizer) -> str:
  """`template`, or what "auto" stands for with this tokenizer."""
  if template != AUTO:
    return template
  return "chat" if tokenizer.chat_template else "plain"


def dated(template: str, tokenizer: Tokenizer) -> bool:
  """Whether the chat template tells the date.

  Scores of one conversation then differ from day to day.
  """
  source = tokenizer.chat_template or ""
  own = template.partition(":")[0] in ("chat", "chat-think")
  return own and "strftime_now" in source


def encode(messages: Sequence[Mapping[str, str]], template: str,
           tokenizer: Tokenizer, eos_id: int) -> tuple[np.ndarray, int]:
  """A conversation that ends with an answer.

  Args:
    messages: the conversation.
    template: as `templates.prompt` takes it.
    tokenizer: of the reward model.
    eos_id: `sft.end_of_answer` of the two.

  Returns:
    (int32 ids, the tokens among them that are the last answer).

  Raises:
    ValueError: the template refuses the messages.
  """
  # Of several sequences the last has all former turns in its prompt.
  spans = sft.dialogues(messages, template, tokenizer)[-1]
  example = sft.encode(spans, template, tokenizer, eos_id)
  answer = len(example.trained) - int(np.flatnonzero(~example.trained)[-1]) - 1
  return example.tokens, answer


def load(paths: Sequence[str | os.PathLike], tokenizer: Tokenizer,
         template: str, capacity: int, loss: str = PAIRWISE, *,
         margin: float = 0.0,
         weights: Mapping[str, float] | None = None) -> Data:
  """All rows of the files as ids, in order; held in memory.

  Args:
    paths: JSONL files or folders, see `preference_rows.read`.
    tokenizer: of the reward model.
    template: how messages become text, as `templates.prompt` takes it.
    capacity: T; what is longer is left out.
    loss: PAIRWISE or POINTWISE. For the latter a pair is two answers.
    margin: factor of the margins that rows give or their scores imply; 0 asks
      for a preference alone.
    weights: source -> factor of the loss of its rows; others count 1.

  Raises:
    ValueError: an unknown template, a file that cannot be read, more than 1 %
      malformed rows, or nothing to learn from.
  """
  templates.prompt(ask(""), template, tokenizer)  # what rows cannot mend
  eos_id = sft.end_of_answer(template, tokenizer)
  examples, left_out = [], collections.defaultdict(list)
  total = split = 0
  for path in paths:
    for where, rows in preference_rows.read(path):
      total += 1
      if isinstance(rows, LeftOut):
        left_out[rows.reason].append(f"{where}: {rows.detail}".rstrip(": "))
        continue
      for row in rows:
        kinds = _as(loss, row)
        split += len(kinds) > 1
        for one in kinds:
          if len(one.sides) < (2 if loss == PAIRWISE else 1):
            left_out[preference_rows.MALFORMED].append(
                f"{where}: a labelled answer is no pair; --loss=pointwise"
                " learns from it")
            continue
          example = _example(where, one, template, tokenizer, eos_id, capacity)
          if isinstance(example, LeftOut):
            left_out[example.reason].append(f"{where}: {example.detail}")
          else:
            factor = (weights or {}).get(example.source, 1.0)
            label = example.label * (margin if loss == PAIRWISE else 1.0)
            examples.append(example._replace(weight=factor, label=label))
  names = ", ".join(map(str, paths))
  bad = left_out.get(preference_rows.MALFORMED, [])
  check(len(bad) <= sft.MALFORMED * total,
        f"{names}: {len(bad)} of {total} rows are malformed, more than"
        f" {sft.MALFORMED:.0%}; mend them or leave them out:\n  "
        + "\n  ".join(bad[:_SHOWN]))
  data = Data(examples, dict(left_out), split, total)
  check(bool(examples), f"nothing is left to learn from; {data.explain(names)}")
  return data


def digest(path: str | os.PathLike) -> str:
  """Of the file behind `path`: a run goes on only with the data it began with.
  """
  return sft.digest(preference_rows.file_of(path))


def _as(loss: str, row: Row) -> list[Row]:
  """The row as the loss needs it."""
  if loss == PAIRWISE or len(row.sides) == 1:
    return [row]
  return [row._replace(sides=(side,), label=float(good))
          for side, good in zip(row.sides, (True, False), strict=True)]


def _example(where: str, row: Row, template: str, tokenizer: Tokenizer,
             eos_id: int, capacity: int) -> Example | LeftOut:
  try:
    encoded = [encode(side, template, tokenizer, eos_id) for side in row.sides]
  except ValueError as error:
    return LeftOut(preference_rows.MALFORMED, str(error))
  longest = max(len(ids) for ids, _ in encoded)
  if longest > capacity:
    return LeftOut("longer than a row; to use them, raise --row_length",
                   f"{longest} tokens")
  sides, answers = zip(*encoded)
  asked = "\0".join(m["content"] for m in row.sides[0][:-1])
  return Example(sides, row.label, 1.0, row.source, answers,
                 zlib.crc32(asked.encode()))


def divided(examples: Sequence[Example], share: float
            ) -> tuple[list[Example], list[Example]]:
  """(to train on, held out): about `share` of all prompts are held out.

  By the prompt, so that none is in both.
  """
  held = [zlib.crc32(str(e.prompt).encode()) < share * 2**32 for e in examples]
  return ([e for e, out in zip(examples, held) if not out],
          [e for e, out in zip(examples, held) if out])


@dataclasses.dataclass(frozen=True, eq=False)
class Packed(sft.Packed):
  """Examples in batches, as `sft.Packed`; a pair takes two rows at once.

  Attributes:
    rows: of a batch, in pairs of rows where an example has two sides.
    sides: of every example.
  """

  sides: int = 1

  @functools.cached_property
  def slots_E(self) -> np.ndarray:
    """Slots that each example takes in both rows."""
    return np.array([max(map(len, e.sides)) for e in self.examples])

  def packed(self, examples: Sequence[Example]) -> ConversationBatch:
    """One row, or two."""
    return lay(examples, self.capacity, self.sides)


def lay(examples: Sequence[Any], capacity: int, sides: int = 1
        ) -> ConversationBatch:
  """NumPy arrays [sides, capacity]: side i of all examples in row i, in order.
  """
  shape = sides, capacity
  ints = {name: np.zeros(shape, np.int32) for name in (
      "tokens_BT", "segments_BT", "positions_BT")}
  floats = {name: np.zeros(shape, np.float32) for name in (
      "mask_BT", "labels_BT", "weights_BT")}
  for side in range(sides):
    at = 0
    for segment, example in enumerate(examples, 1):
      ids = example.sides[side]
      here = side, slice(at, at + len(ids))
      ints["tokens_BT"][here] = ids
      ints["segments_BT"][here] = segment
      ints["positions_BT"][here] = np.arange(len(ids))
      at += len(ids)
      end = side, at - 1
      floats["mask_BT"][end] = 1
      floats["labels_BT"][end] = example.label
      floats["weights_BT"][end] = example.weight
  return ConversationBatch(**ints, **floats)
