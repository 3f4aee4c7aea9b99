"""Preference data (pairs of answers, labelled answers) as packed token ids.

`preference_rows` has the forms of rows. A conversation is rendered completely:
question, answer, and the id that ends the answer, where a reward model's score
is read.
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

from r1jax.core.config import DataError, check
from r1jax.core.prompt import ask
from r1jax.core.types import ConversationBatch
from r1jax.data.sources import preference_rows
from r1jax.data.sources.preference_rows import LeftOut, Row
from r1jax.data.streams import sft
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import Tokenizer

PAIRWISE, POINTWISE = "pairwise", "pointwise"
AUTO = "auto"  # the tokenizer's own chat template, else "plain"
_SHOWN = 10  # left-out rows listed per reason


class Example(NamedTuple):
  """A pair or a labelled answer, as ids.

  Attributes:
    sides: int32 [n] ids of each conversation: for a pair the preferred one and
      the rejected one, for a labelled answer one.
    label: a pair's margin, or an answer's quality from 0 (bad) to 1 (good).
    weight: factor of the loss.
    source: name of the data's source, or "".
    answers: for each side, the number of tokens in its last answer.
    prompt: checksum of the messages before the answer.
  """

  sides: tuple[np.ndarray, ...]
  label: float
  weight: float
  source: str
  answers: tuple[int, ...]
  prompt: int


class Data(NamedTuple):
  """The examples of some files, and which rows were left out.

  Attributes:
    examples: those that fit a row.
    left_out: reason -> a line `FILE:LINE: details` for each left-out row.
    split: number of pairs that were read as two labelled answers.
    rows: number of rows in the files.
  """

  examples: list[Example]
  left_out: dict[str, list[str]]
  split: int
  rows: int

  def explain(self, name: str) -> str:
    """A text for the log: what was read and what was left out."""
    kind = {0: "examples", 1: "labelled answers", 2: "pairs"}[
        len(self.examples[0].sides) if self.examples else 0]
    tokens = sum(len(ids) for e in self.examples for ids in e.sides)
    lines = [f"{name}: {len(self.examples)} {kind}, {tokens} tokens, of"
             f" {self.rows} rows"]
    if self.split:
      lines.append(
          f"{self.split} pairs are read as two answers each, the chosen one as"
          " good and the rejected one as bad; but a preference does not mean"
          " that")
    for reason, details in sorted(self.left_out.items()):
      lines.append(f"{len(details)} left out: {reason}")
      lines += [f"  {line}" for line in details[:_SHOWN]]
    return "\n".join(lines)


def template_for(template: str, tokenizer: Tokenizer) -> str:
  """`template`, with "auto" replaced by "chat" or "plain"."""
  if template != AUTO:
    return template
  return "chat" if tokenizer.chat_template else "plain"


def dated(template: str, tokenizer: Tokenizer) -> bool:
  """Whether the chat template puts today's date into its text.

  Scores of a conversation then differ from day to day.
  """
  source = tokenizer.chat_template or ""
  own = template.partition(":")[0] in ("chat", "chat-think")
  return own and "strftime_now" in source


def encode(messages: Sequence[Mapping[str, str]], template: str,
           tokenizer: Tokenizer, eos_id: int) -> tuple[np.ndarray, int]:
  """The ids of a conversation that ends with an answer.

  Args:
    messages: the conversation.
    template: as `templates.prompt` takes it.
    tokenizer: the reward model's.
    eos_id: `sft.end_of_answer` of template and tokenizer.

  Returns:
    (int32 [n] ids, the number of tokens in the last answer, with eos_id).

  Raises:
    ValueError: the template refuses the messages.
  """
  # The last sequence has all earlier turns in its prompt.
  spans = sft.dialogues(messages, template, tokenizer)[-1]
  example = sft.encode(spans, template, tokenizer, eos_id)
  answer = len(example.trained) - int(np.flatnonzero(~example.trained)[-1]) - 1
  return example.tokens, answer


def load(paths: Sequence[str | os.PathLike], tokenizer: Tokenizer,
         template: str, capacity: int, loss: str = PAIRWISE, *,
         margin: float = 0.0,
         weights: Mapping[str, float] | None = None) -> Data:
  """Reads all rows of the files as ids, in order, into memory.

  Args:
    paths: JSONL files or folders, see `preference_rows.read`.
    tokenizer: the reward model's.
    template: how messages become text, as `templates.prompt` takes it.
    capacity: T, tokens in a row; longer conversations are left out.
    loss: PAIRWISE or POINTWISE. With POINTWISE a pair becomes two labelled
      answers.
    margin: factor of the margins that rows give or their scores imply; with 0
      only the preference counts.
    weights: source -> factor of the loss of its rows; 1 for other sources.

  Raises:
    ValueError: an unknown template.
    DataError: a file that cannot be read, more than 1 % malformed rows, or no
      example is left.
  """
  # An unknown template is an error, not the fault of every row.
  templates.prompt(ask(""), template, tokenizer)
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
                f"{where}: a labelled answer is not a pair; use"
                " --loss=pointwise")
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
        f" {sft.MALFORMED:.0%}; repair or remove them:\n  "
        + "\n  ".join(bad[:_SHOWN]), DataError)
  data = Data(examples, dict(left_out), split, total)
  check(bool(examples), f"no example is left; {data.explain(names)}", DataError)
  return data


def digest(path: str | os.PathLike) -> str:
  """`sft.digest` of the file that `preference_rows.file_of` finds."""
  return sft.digest(preference_rows.file_of(path))


def _as(loss: str, row: Row) -> list[Row]:
  """The row, with a pair split into two labelled answers for POINTWISE."""
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
  """(training, held out): about `share` of all prompts are held out.

  The choice depends on the prompt's checksum, so no prompt is in both.
  """
  held = [zlib.crc32(str(e.prompt).encode()) < share * 2**32 for e in examples]
  return ([e for e, out in zip(examples, held) if not out],
          [e for e, out in zip(examples, held) if out])


@dataclasses.dataclass(frozen=True, eq=False)
class Packed(sft.Packed):
  """Batches of examples, as `sft.Packed`, where a pair takes two rows.

  Attributes:
    rows: rows of a batch; pairs of rows if examples have two sides.
    sides: conversations of every example, 1 or 2.
  """

  sides: int = 1

  @functools.cached_property
  def slots_E(self) -> np.ndarray:
    """int [E], the slots that each example takes: those of its longer side."""
    return np.array([max(map(len, e.sides)) for e in self.examples])

  def packed(self, examples: Sequence[Example]) -> ConversationBatch:
    """The examples in one row, or a pair of rows."""
    return lay(examples, self.capacity, self.sides)


def lay(examples: Sequence[Any], capacity: int, sides: int = 1
        ) -> ConversationBatch:
  """Puts examples into rows: side i of all examples, in order, into row i.

  Args:
    examples: that fit; have the attributes `sides`, `label` and `weight`.
    capacity: T.
    sides: B.

  Returns:
    NumPy arrays [B, T]. Mask, labels and weights are set at the last token of
    each conversation, where its score is read.
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
