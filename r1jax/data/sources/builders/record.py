"""The record of a `Prompt` in tfds and in JSON Lines, for all domains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import references

DOMAINS = ("math", "code", "stem", "logic", "general")
ROLES = ("system", "user", "assistant")
MAX_ID = 2**31

_TEXTS = ("domain", "source", "language", "verifier")
_JSON = ("messages", "reference", "metadata")


def features() -> tfds.features.FeaturesDict:
  """The features for tfds; fields without a fixed form are JSON texts."""
  return tfds.features.FeaturesDict({
      "id": tfds.features.Scalar(dtype=np.int64),
      **{name: tfds.features.Text() for name in (*_TEXTS, *_JSON)},
  })


def encode(prompt: Prompt) -> dict[str, Any]:
  """The record of a prompt, which `decode` turns into an equal prompt.

  Raises:
    ValueError: the id or domain is not allowed, or a field changes when it is
      stored as JSON (a tuple, a set, a key that is no string, NaN).
  """
  where = f"prompt {prompt.id} of {prompt.source}"
  if not 0 <= prompt.id < MAX_ID:
    raise ValueError(f"{where}: an id must be in 0..{MAX_ID - 1}")
  if prompt.domain not in DOMAINS:
    raise ValueError(
        f"{where}: domain={prompt.domain!r} is not one of {', '.join(DOMAINS)}")
  row = {"id": prompt.id}
  for name in _TEXTS:
    row[name] = getattr(prompt, name)
  for name in _JSON:
    value = getattr(prompt, name)
    value = list(value) if name == "messages" else value
    try:
      row[name] = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
      raise ValueError(f"{where}: {name} is not JSON-ready: {error}") from error
    if json.loads(row[name]) != value:
      raise ValueError(
          f"{where}: {name} is not JSON-ready: JSON would change it; use lists,"
          " not tuples, and strings as keys")
  return row


def decode(row: Mapping[str, Any]) -> Prompt:
  """The prompt of a record."""
  texts = {name: _text(row[name]) for name in _TEXTS}
  parts = {name: json.loads(row[name]) for name in _JSON}
  parts["messages"] = tuple(parts["messages"])
  return Prompt(id=int(row["id"]), **texts, **parts)


def to_json(prompt: Prompt) -> dict[str, Any]:
  """The object of one line of a JSON Lines file of prompts."""
  return {
      "id": prompt.id, "domain": prompt.domain, "source": prompt.source,
      "messages": [dict(message) for message in prompt.messages],
      "reference": prompt.reference, "verifier": prompt.verifier,
      "language": prompt.language, "metadata": dict(prompt.metadata),
  }


def from_json(fields: Mapping[str, Any], number: int) -> Prompt:
  """The prompt of such an object.

  Fields: domain, source, messages or question, reference, verifier; optional
  are id, language ("en"), metadata ({}), and reference if verifier is "".

  Args:
    fields: the object.
    number: the id if the object has none.

  Raises:
    ValueError: a field is missing or of the wrong type, or the verifier cannot
      judge by the reference (`references`); the message names it.
  """
  known = {"id", "question", *_TEXTS, *_JSON}
  if unknown := sorted(set(fields) - known):
    raise ValueError(
        f"field {unknown[0]!r} is unknown; put further fields under"
        " 'metadata'")
  number = fields.get("id", number)
  if type(number) is not int or not 0 <= number < MAX_ID:
    raise ValueError(f"id={number!r} is not a whole number in 0..{MAX_ID - 1}")
  texts = {"language": "en", **{k: fields[k] for k in _TEXTS if k in fields}}
  for name in _TEXTS:
    if not isinstance(texts.get(name), str):
      raise ValueError(f"no text under {name!r}")
  if texts["domain"] not in DOMAINS:
    raise ValueError(
        f"domain={texts['domain']!r} is not one of {', '.join(DOMAINS)}")
  if texts["verifier"] and fields.get("reference") is None:
    raise ValueError(f"verifier {texts['verifier']!r} needs a 'reference'")
  metadata = fields.get("metadata", {})
  if not isinstance(metadata, dict):
    raise ValueError("'metadata' is not an object")
  return Prompt(
      id=number, messages=_messages(fields), metadata=metadata,
      reference=references.checked(
          texts["verifier"], fields.get("reference")), **texts)


def _messages(fields: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
  if ("question" in fields) == ("messages" in fields):
    raise ValueError("needs either 'question' or 'messages'")
  if "question" in fields:
    question = fields["question"]
    if not isinstance(question, str) or not question.strip():
      raise ValueError("no text under 'question'")
    return ask(question)
  messages = fields["messages"]
  if not isinstance(messages, list) or not messages:
    raise ValueError("'messages' is not a list of messages")
  for message in messages:
    if (not isinstance(message, dict) or set(message) != {"role", "content"}
        or message["role"] not in ROLES
        or not isinstance(message["content"], str)):
      raise ValueError(
          "a message is {'role': one of system, user, assistant; 'content':"
          f" text}}, not {str(message)[:80]}")
  if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
    raise ValueError("the last message is not a user's question")
  return tuple(messages)


def _text(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)
