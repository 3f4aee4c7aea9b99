"""Reads rows of supervised data and checks their form.

A row is {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"},
optionally with "source" (a name) and "weight" (factor of its loss). An
assistant's message may have its thought in a field "reasoning_content",
"reasoning" or "thinking", and its own factor of the loss, "weight" or
"loss_mask"; with 0 it is context only. A content is a text, or a list of parts
{"type": "text", "text"}, which are joined. Files: see `json_rows`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from r1jax.core import thoughts
from r1jax.core.config import DataError, check
from r1jax.data.sources import json_rows

Message = Mapping[str, Any]  # "role", "content"; "weight" if it is not 1
ROLES = ("system", "user", "assistant")

# Known fields of rows and messages. Others are ignored and reported, except
# those of _TOOLS, which make a row malformed.
_FIELDS = frozenset({"messages", "prompt", "completion", "source", "weight",
                     "language", "domain", "role", "content", "loss_mask"})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TOOLS = ("tools", "tool_calls", "functions", "function_call")
# Bounds of factors other than 0; float32 holds the product of all.
_LEAST, _MOST = 1e-9, 1e9


class Row(NamedTuple):
  """A row of a file.

  Attributes:
    messages: the dialogue.
    source: name of the data's source, or "".
    weight: factor of its loss.
    unread: names of its fields that are ignored.
  """

  messages: list[Message]
  source: str = ""
  weight: float = 1.0
  unread: frozenset[str] = frozenset()


def read(path: str | os.PathLike) -> Iterator[tuple[str, Row | str]]:
  """(FILE:LINE, row) of every row; for a malformed row the reason instead.

  Raises:
    ValueError: the file cannot be read.
  """
  for where, line in json_rows.lines(path):
    yield where, parsed(line)


def parsed(line: bytes) -> Row | str:
  """The row of a line, or why it is malformed."""
  try:
    return parse(line)
  except ValueError as error:
    return str(error)


def parse(line: bytes) -> Row:
  """The row of a line.

  Raises:
    ValueError: it is malformed.
  """
  row = json_rows.parse(line)
  source = row.get("source")
  check(source is None or isinstance(source, str),
        f"its source is not a string but {source!r:.40}")
  _check_tools(row)
  pair = "prompt" in row or "completion" in row
  check(pair != ("messages" in row), "it needs either messages, or prompt and"
        f" completion; it has {', '.join(row)[:80] or 'no fields'}")
  messages = row.get("messages")
  if pair:
    asked, said = row.get("prompt"), row.get("completion")
    check(isinstance(asked, str) and isinstance(said, str), "its prompt and"
          f" completion are not both strings but {asked!r:.40} and {said!r:.40}"
          "; a conversation belongs into messages")
    messages = [{"role": "user", "content": asked},
                {"role": "assistant", "content": said}]
  check(isinstance(messages, list) and len(messages) > 1,
        "its messages are not a list of at least two")
  said = [_message(m) for m in messages]
  unread = row.keys() | {f"messages.{name}" for m in messages for name in m
                         if name not in _FIELDS | set(_THOUGHTS)}
  check(any(m.get("weight", 1.0) for m in said if m["role"] == "assistant")
        or all(m["role"] != "assistant" for m in said),
        "all its answers have weight 0, so nothing of it would be trained")
  weight = _weight(row, "its weight")
  check(weight > 0, "its weight is 0, so nothing of it would be trained; remove"
        " the row")
  return Row(said, source or "", weight, frozenset(unread - _FIELDS))


def _check_tools(fields: Mapping[str, Any]) -> None:
  used = [name for name in _TOOLS if fields.get(name)]
  check(not used, f"it has {', '.join(used)}, which are not supported; write"
        " them into the messages' text, or remove the row")


def _message(message: Any) -> Message:
  check(isinstance(message, dict), f"a message is {message!r:.60}, not an"
        " object with role and content")
  _check_tools(message)
  role = message.get("role")
  check(role in ROLES, f"a message does not have a role of {', '.join(ROLES)}"
        f" but {role!r:.40}")
  content = _text(message.get("content"))
  if role == "assistant":
    content = _with_thought(message, content)
  names = [name for name in ("weight", "loss_mask") if name in message]
  check(len(names) < 2, "a message has both weight and loss_mask; give one")
  factor = _weight(message, "a message's weight", *names)
  said = {"role": role, "content": content}
  if role == "assistant":
    return said if factor == 1 else said | {"weight": factor}
  check(not names or factor == 0, f"a message of the {role} has"
        f" {' '.join(names)} {factor:g}; only answers are trained: set it to 0")
  return said


def _text(content: Any) -> str:
  """A message's content: a text, or the texts of its parts."""
  parts = content if isinstance(content, list) and content else [content]
  if parts is content:
    parts = [part.get("text") if isinstance(part, dict)
             and part.get("type") == "text" else part for part in content]
  check(all(isinstance(part, str) for part in parts), "a message's content is"
        f" {content!r:.60}, not a text")
  text = "".join(parts)
  check(_is_unicode(text), "a message has a lone surrogate, which is no"
        " character")
  return text


def _is_unicode(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _with_thought(message: Mapping[str, Any], content: str) -> str:
  """The content, preceded by the thought if that has a field of its own."""
  found = [message[name] for name in _THOUGHTS if message.get(name)]
  if not found:
    return content
  check(len(found) == 1 and isinstance(found[0], str), "a message's thought is"
        f" not one string in one of the fields {', '.join(_THOUGHTS)}")
  check(_is_unicode(found[0]), "a thought has a lone surrogate, which is no"
        " character")
  check(thoughts.CLOSE not in content + found[0], "a message has a thought in"
        " its content and another in"
        f" {' or '.join(n for n in _THOUGHTS if n in message)}; keep one")
  thought = found[0].strip("\n")
  return f"{thoughts.OPEN}\n{thought}\n{thoughts.CLOSE}\n\n{content}"


def _weight(fields: Mapping[str, Any], whose: str, name: str = "weight"
            ) -> float:
  value = fields.get(name)
  if value is None:
    return 1.0
  check(isinstance(value, int | float)
        and (value == 0 or _LEAST <= value <= _MOST),
        f"{whose} {value!r:.40} is not a finite number from {_LEAST:g} to"
        f" {_MOST:g}, or 0")
  return float(value)


def check_any(path: str | os.PathLike, rows: int) -> None:
  """Raises DataError if a file has no rows."""
  check(rows > 0, f"{path} is empty: it has no rows. A row is a line such as"
        ' {"prompt": "...", "completion": "..."} or {"messages": [...]}',
        DataError)
