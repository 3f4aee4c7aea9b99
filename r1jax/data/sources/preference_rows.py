"""Reads rows of preference data in the forms of published data sets.

A row of a JSONL file (also .gz) is one of

  {"messages": [...], "chosen": ..., "rejected": ...}    a pair of answers
  {"chosen": ..., "rejected": ...}                       two conversations
  {"messages": [...], "responses": [...], "scores": [...]}    scored answers
  {"messages": [...], "response": ..., "label": ...}     a labelled answer

`messages` are [{"role", "content"}, ...], the last by the user; instead of them
`prompt` may be a text or such messages. An answer is a text, a message, or
messages, which may begin with those of the question. A conversation is
messages, or a transcript as in HH-RLHF
("\\n\\nHuman: ...\\n\\nAssistant: ..."). A pair may have scores (`chosen_score`
and `rejected_score`, or `score_chosen` and `score_rejected`) or a `margin`. A
label is true, 1, "safe" or "good"; false, 0, "unsafe", "harmful" or "bad"; or a
number between 0 and 1. Every row may have a `source`.

A path may also be the folder of one of two published sets: PandaLM's test set
(`testset-v1.json`, the majority of three annotators) or HH-RLHF's harmless test
pairs (`hh_harmless_base_test.jsonl.gz`).
"""

from __future__ import annotations

import collections
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core.config import DataError, check
from r1jax.data.sources import json_rows
from r1jax.data.sources.sft_rows import ROLES, Message

MALFORMED, TIE, EQUAL, EMPTY = (
    "malformed", "ties", "both answers are equal", "an answer is empty")
_KNOWN = ("testset-v1.json", "hh_harmless_base_test.jsonl.gz")
_SOURCES = {_KNOWN[0]: "pandalm", _KNOWN[1]: "hh-harmless"}
_MOST = 1e9  # a larger score or margin is a mistake
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_LABELS = {"safe": 1.0, "good": 1.0, "unsafe": 0.0, "harmful": 0.0, "bad": 0.0}
_SCORES = (("chosen_score", "rejected_score"),
           ("score_chosen", "score_rejected"))


class Row(NamedTuple):
  """A pair or a labelled answer.

  Attributes:
    sides: the preferred and the rejected conversation, or the labelled one.
    label: a pair's margin, 0 if unknown, or an answer's quality from 0 to 1.
    source: name of the data's source, or "".
  """

  sides: tuple[tuple[Message, ...], ...]
  label: float
  source: str


class LeftOut(NamedTuple):
  """Why a row is not used.

  Attributes:
    reason: one of few texts, to count by.
    detail: of this row, or "".
  """

  reason: str
  detail: str


class _Left(Exception):  # noqa: N818 - not an error
  """A well-formed row that states no preference; the text is the reason."""


def read(path: str | os.PathLike
         ) -> Iterator[tuple[str, list[Row] | LeftOut]]:
  """(FILE:LINE, its pairs or labelled answer, or why it is left out) by row.

  Args:
    path: a file, or a folder for `file_of`.

  Raises:
    ValueError: the file cannot be read, or the folder has no known file.
  """
  file = file_of(path)
  source = _SOURCES.get(file.name, "")
  for where, line in json_rows.lines(file):
    try:
      yield where, _parse(json_rows.parse(line), source)
    except _Left as error:
      yield where, LeftOut(str(error), "")
    except ValueError as error:
      yield where, LeftOut(MALFORMED, str(error))


def file_of(path: str | os.PathLike) -> epath.Path:
  """`path`, or if it is a folder, the known file in it.

  Raises:
    ValueError: the folder has no known file.
  """
  path = epath.Path(path)
  if not path.is_dir():
    return path
  for name in _KNOWN:
    if (path / name).exists():
      return path / name
  raise DataError(f"{path} is a folder without {' or '.join(_KNOWN)}; give"
                  " JSONL files, separated by commas")


def _parse(row: dict[str, Any], source: str) -> list[Row]:
  named = row.get("source") or source
  check(isinstance(named, str), "its source is not a string")
  if "annotator1" in row:
    return [_annotated(row, named)]
  if "label" in row:
    return [Row((_answered(_asked(row), row.get("response")),),
                _label(row["label"]), named)]
  if "scores" in row:
    return _scored(row, named)
  check("chosen" in row and "rejected" in row, "it has neither chosen and"
        " rejected, nor response and label, nor responses and scores")
  asked = _asked(row, needed=False)
  sides = [_whole(row[name]) if asked is None else _answered(asked, row[name])
           for name in ("chosen", "rejected")]
  return [_pair(sides, _margin(row), named)]


def _asked(row: dict[str, Any], needed: bool = True
           ) -> tuple[Message, ...] | None:
  """The messages before the answer; None if absent and not `needed`."""
  given = row.get("messages", row.get("prompt"))
  if given is None:
    check(not needed, "it has neither messages nor prompt")
    return None
  if isinstance(given, str):
    if _TURN.match(given):
      messages = _transcript(given)
      # HH-RLHF's prompts may end with "Assistant:".
      if messages and not messages[-1]["content"].strip():
        messages = messages[:-1]
    else:
      messages = ({"role": "user", "content": given},)
  else:
    messages = _messages(given)
  check(bool(messages) and messages[-1]["role"] == "user",
        "its last message is not the user's")
  return messages


def _answered(asked: tuple[Message, ...], answer: Any) -> tuple[Message, ...]:
  """The conversation that ends with the answer."""
  if isinstance(answer, str):
    return _checked((*asked, {"role": "assistant", "content": answer}))
  if isinstance(answer, dict):
    answer = [answer]
  messages = _messages(answer)
  if messages[:len(asked)] == asked:
    return _checked(messages)
  check(messages[0]["role"] == "assistant",
        "an answer's messages begin neither with the question's messages nor"
        " with the assistant's")
  return _checked((*asked, *messages))


def _whole(conversation: Any) -> tuple[Message, ...]:
  if isinstance(conversation, str):
    check(bool(_TURN.match(conversation)), "without messages or prompt, chosen"
          " and rejected must be whole conversations: messages, or transcripts"
          " that begin with Human:")
    return _checked(_transcript(conversation))
  return _checked(_messages(conversation))


def _transcript(text: str) -> tuple[Message, ...]:
  _, *parts = _TURN.split(text)
  return tuple({"role": _SPEAKERS[speaker], "content": said.strip()}
               for speaker, said in zip(parts[::2], parts[1::2]))


def _messages(given: Any) -> tuple[Message, ...]:
  check(isinstance(given, list) and bool(given),
        f"{_brief(given)} is not a list of messages")
  for m in given:
    check(isinstance(m, dict) and m.get("role") in ROLES
          and isinstance(m.get("content"), str), f"{_brief(m)} is not a message"
          f" with a role ({', '.join(ROLES)}) and a content")
  return tuple({"role": m["role"], "content": m["content"]} for m in given)


def _checked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
  check(len(messages) > 1 and messages[0]["role"] != "assistant"
        and messages[-1]["role"] == "assistant",
        "a conversation does not begin with the user or system and end with"
        " the assistant")
  for message in messages:
    message["content"].encode()  # raises for a lone surrogate
  if not messages[-1]["content"].strip():
    raise _Left(EMPTY)
  return messages


def _pair(sides: Sequence[tuple[Message, ...]], margin: float, source: str
          ) -> Row:
  first, second = ([m["content"].strip() for m in side] for side in sides)
  if first == second:
    raise _Left(EQUAL)
  return Row(tuple(sides), margin, source)


def _margin(row: dict[str, Any]) -> float:
  """The difference of the scores, or the margin; 0 if the row has neither."""
  for better, worse in _SCORES:
    if better in row or worse in row:
      lead = _number(row.get(better), better) - _number(row.get(worse), worse)
      if not lead:
        raise _Left(TIE)
      check(lead > 0, f"{better}={row[better]} is below {worse}={row[worse]}")
      return lead
  lead = _number(row.get("margin", 0), "margin")
  check(lead >= 0, f"margin={lead} is negative")
  return lead


def _scored(row: dict[str, Any], source: str) -> list[Row]:
  """All pairs of a row's answers whose scores differ."""
  asked, answers, scores = (
      _asked(row), row.get("responses"), row["scores"])
  check(isinstance(answers, list) and isinstance(scores, list)
        and len(answers) == len(scores) > 1,
        "responses and scores are not lists of the same length, at least 2")
  scores = [_number(x, "a score") for x in scores]
  sides, pairs = [_answered(asked, answer) for answer in answers], []
  for i, one in enumerate(scores):
    for j in range(i):
      lead = one - scores[j]
      if lead:
        better, worse = (i, j) if lead > 0 else (j, i)
        pairs.append(_pair((sides[better], sides[worse]), abs(lead), source))
  if not pairs:
    raise _Left(TIE)
  return pairs


def _annotated(row: dict[str, Any], source: str) -> Row:
  """A row of PandaLM, by the majority of three annotators.

  They write the number of the better response, or 0 for a tie.
  """
  for name in ("instruction", "input", "response1", "response2"):
    check(isinstance(row.get(name), str), f"its {name} is not a text")
  asked = "\n\n".join(filter(None, (row["instruction"], row["input"])))
  asked = ({"role": "user", "content": asked},)
  sides = [_answered(asked, row[f"response{i}"]) for i in (1, 2)]
  said = [row.get(f"annotator{i}") for i in (1, 2, 3)]
  check(all(vote in (0, 1, 2) for vote in said),
        f"annotators are {_brief(said)}, not 0, 1 or 2")
  (vote, count), = collections.Counter(said).most_common(1)
  if count < 2 or not vote:
    raise _Left(TIE)
  return _pair(sides if vote == 1 else sides[::-1], 0.0, source)


def _label(value: Any) -> float:
  label = value
  if isinstance(value, str):
    label = _LABELS.get(value.strip().lower(), math.nan)
  check(isinstance(label, bool | int | float) and 0 <= label <= 1,
        f"label={_brief(value)} is neither true, false, safe, unsafe, good, bad"
        " nor harmful, nor a number from 0 to 1")
  return float(label)


def _number(value: Any, name: str) -> float:
  check(type(value) in (int, float) and abs(value) <= _MOST,
        f"{name}={_brief(value)} is not a number up to {_MOST:g}")
  return float(value)


def _brief(value: Any) -> str:
  return repr(value)[:60]
