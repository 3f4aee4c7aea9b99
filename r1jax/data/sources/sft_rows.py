"""Reads rows of supervised data and checks their form.

A row is {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"},
optionally with "source" (a name) and "weight" (factor of its loss). An
assistant's message may have its thought in a field "reasoning_content",
"reasoning" or "thinking", and its own factor of the loss, "weight" or
"loss_mask"; with 0 it is context only. Files are JSON Lines, or one JSON array
of rows.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from r1jax.core import thoughts
from r1jax.core.config import check

Message = Mapping[str, Any]  # "role", "content"; "weight" if it is not 1
ROLES = ("system", "user", "assistant")

# Known fields of rows and messages. Others are ignored and reported, except
# those of _TOOLS, which make a row malformed.
_FIELDS = frozenset({"messages", "prompt", "completion", "source", "weight",
                     "language", "domain", "role", "content", "loss_mask"})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TOOLS = ("tools", "tool_calls", "functions", "function_call")
# The first line of a file that is one indented JSON value.
_OPENINGS = (b"[", b"{")


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


def lines(path: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
  """(FILE:LINE, JSON) of every line that is not blank.

  For a file with one JSON array (FILE:NUMBER, JSON) of every element.

  Raises:
    ValueError: the file cannot be read, or begins as a JSON array but is not
      valid JSON.
  """
  try:
    with epath.Path(path).open("rb") as opened:
      if is_whole(opened.readline()):
        opened.seek(0)
        rows = _elements(opened.read(), str(path))
        if rows is not None:
          yield from rows
          return
      opened.seek(0)
      for number, line in enumerate(opened, 1):
        if line.strip():
          yield f"{path}:{number}", line
  except OSError as error:
    raise ValueError(
        f"data={path} cannot be read ({error.strerror or error}); give JSONL"
        " files, separated by commas") from error


def is_whole(line: bytes) -> bool:
  """Whether a file with this first line is one JSON value, not JSON Lines."""
  line = line.removeprefix(codecs.BOM_UTF8).strip()
  return line.startswith(b"[") or line in _OPENINGS


def _elements(text: bytes, path: str) -> list[tuple[str, bytes]] | None:
  """The rows of one JSON value; None if it turns out to be JSON Lines."""
  try:
    value = json.loads(text.decode("utf-8-sig"))
  except (ValueError, RecursionError) as error:
    check("Extra data" in str(error), f"data={path} begins as a JSON array but"
          f" is not valid JSON ({error}); repair it, or give JSON Lines, one"
          " row per line")
    return None
  rows = value if isinstance(value, list) else [value]
  return [(f"{path}:{number}", json.dumps(row).encode())
          for number, row in enumerate(rows, 1)]


def read(path: str | os.PathLike) -> Iterator[tuple[str, Row | str]]:
  """(FILE:LINE, row) of every row; for a malformed row the reason instead.

  Raises:
    ValueError: the file cannot be read.
  """
  for where, line in lines(path):
    yield where, parsed(line)


def parsed(line: bytes) -> Row | str:
  """The row of a line, or why it is malformed."""
  try:
    return parse(line)
  except (ValueError, RecursionError) as error:
    return str(error)


def parse(line: bytes) -> Row:
  """The row of a line.

  Raises:
    ValueError, RecursionError: it is malformed.
  """
  row = json.loads(line.decode("utf-8-sig"))
  check(isinstance(row, dict), "it is not a JSON object")
  source = row.get("source") or ""
  check(isinstance(source, str), "its source is not a string")
  _check_tools(row)
  pair = "prompt" in row or "completion" in row
  check(pair != ("messages" in row),
        "it needs either messages, or prompt and completion")
  messages = row.get("messages")
  if pair:
    messages = [{"role": "user", "content": row.get("prompt")},
                {"role": "assistant", "content": row.get("completion")}]
  check(isinstance(messages, list) and len(messages) > 1,
        "its messages are not a list of at least two")
  said = [_message(m) for m in messages]
  unread = row.keys() | {f"messages.{name}" for m in messages for name in m
                         if name not in _FIELDS | set(_THOUGHTS)}
  check(any(m.get("weight", 1.0) for m in said if m["role"] == "assistant")
        or all(m["role"] != "assistant" for m in said),
        "all its answers have weight 0, so nothing of it would be trained")
  return Row(said, source, _weight(row, "its weight"),
             frozenset(unread - _FIELDS))


def _check_tools(fields: Mapping[str, Any]) -> None:
  used = [name for name in _TOOLS if fields.get(name)]
  check(not used, f"it has {', '.join(used)}, which are not supported; write"
        " them into the messages' text, or remove the row")


def _message(message: Any) -> Message:
  check(isinstance(message, dict) and message.get("role") in ROLES
        and isinstance(message.get("content"), str),
        "a message does not have a role (system, user, assistant) and a string"
        " as content, or prompt and completion are not both strings")
  _check_tools(message)
  role, content = message["role"], message["content"]
  content.encode()  # raises for a lone surrogate
  if role == "assistant":
    content = _with_thought(message)
  names = [name for name in ("weight", "loss_mask") if name in message]
  check(len(names) < 2, "a message has both weight and loss_mask; give one")
  factor = _weight(message, "a message's weight", *names)
  said = {"role": role, "content": content}
  if role == "assistant":
    return said if factor == 1 else said | {"weight": factor}
  check(not names or factor == 0, f"a message of the {role} has"
        f" {' '.join(names)} {factor:g}; only answers are trained: set it to 0")
  return said


def _with_thought(message: Mapping[str, Any]) -> str:
  """The content, preceded by the thought if that has a field of its own."""
  content = message["content"]
  found = [message[name] for name in _THOUGHTS if message.get(name)]
  if not found:
    return content
  check(len(found) == 1 and isinstance(found[0], str), "a message's thought is"
        f" not one string in one of the fields {', '.join(_THOUGHTS)}")
  found[0].encode()
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
  check(isinstance(value, int | float) and 0 <= value < math.inf,
        f"{whose} {value!r} is not a finite number >= 0")
  return float(value)


def check_any(path: str | os.PathLike, rows: int) -> None:
  """Raises ValueError if a file has no rows."""
  check(rows > 0, f"data={path} is empty: it has no rows. A row is a line such"
        ' as {"prompt": "...", "completion": "..."} or {"messages": [...]}')
