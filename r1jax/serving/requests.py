"""Parses request bodies of OpenAI's completions and chat completions, strictly.

A field that would change an answer and is not supported is an error that names
it; fields without effect here (`user`, `metadata`) are accepted and ignored.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1jax.core.prompt import Message

MAX_STOPS, MAX_STOP, MAX_CHOICES, MAX_PROMPTS = 16, 256, 128, 128
_ROLES = {"system": "system", "developer": "system", "user": "user",
          "assistant": "assistant"}
_SHARED = ("model", "temperature", "top_p", "n", "max_tokens", "seed", "stop",
           "stream", "stream_options", "logprobs")
_CHAT = (*_SHARED, "messages", "max_completion_tokens")
_TEXT = (*_SHARED, "prompt")
# Fields that have no effect here, whatever their value.
_IDLE = {"user", "metadata", "store", "service_tier", "safety_identifier",
         "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"}
# Fields that are accepted with these values only, which have no effect.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "top_logprobs": (0,), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],),
    "best_of": (1,), "echo": (False,), "suffix": ("",)}


class Refused(Exception):
  """A request that is answered with an error.

  Attributes:
    status: HTTP status.
    message: what is wrong, and what to do.
    param: the offending field, or None.
    code: OpenAI's machine-readable error code, or None.
  """

  def __init__(self, message: str, param: str | None = None, *,
               status: int = 400, code: str | None = None):
    super().__init__(message)
    self.status, self.message = status, message
    self.param, self.code = param, code


class Request(NamedTuple):
  """A parsed request.

  Attributes:
    model: the model's name in the request.
    messages: the chat, None for plain completions.
    prompts: texts or lists of token ids, () for a chat.
    temperature, top_p, seed: of sampling.
    n: samples per prompt.
    limit: the most new tokens of each sample, or None.
    stops: texts that end an answer; they are not part of it.
    stream: whether the answer is sent as it grows.
    usage: whether a stream ends with token counts.
    logprobs: whether the log-probability of each token is returned.
  """

  model: str
  messages: tuple[Message, ...] | None
  prompts: tuple[str | list[int], ...]
  temperature: float
  top_p: float
  n: int
  seed: int
  limit: int | None
  stops: tuple[str, ...]
  stream: bool
  usage: bool
  logprobs: bool


def read(body: bytes, *, chat: bool) -> Request:
  """Parses a request body.

  Args:
    body: JSON as received.
    chat: whether the route is chat completions.

  Raises:
    Refused: the body is malformed or asks for something unsupported; the
      message names the field.
  """
  fields = _object(body)
  known = _CHAT if chat else _TEXT
  for name, value in fields.items():
    if name in known or name in _IDLE or value is None:
      continue
    if name not in _NEUTRAL:
      raise Refused(f"{_shown(name)} is not a field that this server knows; it"
                    f" takes {', '.join(known)}", name[:60],
                    code="unknown_parameter")
    if value not in _NEUTRAL[name]:
      raise Refused(f"{name}={_shown(value)} is not supported; leave it out",
                    name, code="unsupported_value")
  take = _Fields(fields)
  options = take("stream_options", {}, _is_object, "an object")
  extra = sorted(options.keys() - {"include_usage", "include_obfuscation"})
  if extra:
    raise Refused(f"stream_options has {_shown(extra[0])}; it takes"
                  " include_usage", "stream_options")
  usage = _Fields(options)("include_usage", False, _is_flag, "true or false")
  limits = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
  limit = next((found for name in limits if (found := take(
      name, None, _at_least(1), "an integer of at least 1")) is not None), None)
  logprobs = take("logprobs", False, _is_flag if chat else _no_tops,
                  "true or false" if chat else
                  "0: only those of the sampled tokens are supported")
  return Request(
      model=take("model", None, _is_text, "a text"),
      messages=_messages(fields.get("messages")) if chat else None,
      prompts=() if chat else _prompts(fields.get("prompt")),
      temperature=float(take("temperature", 1.0, _between(0, 2),
                             "a number from 0 to 2")),
      top_p=float(take("top_p", 1.0, _between(0, 1, above=True),
                       "a number above 0 and at most 1")),
      n=take("n", 1, _at_least(1, MAX_CHOICES),
             f"an integer from 1 to {MAX_CHOICES}"),
      seed=take("seed", secrets.randbits(32), _is_integer, "an integer")
      % 2**32,
      limit=limit, stops=_stops(fields.get("stop")),
      stream=take("stream", False, _is_flag, "true or false"), usage=usage,
      logprobs=logprobs is not False)


class _Fields:
  """Reads and checks one field at a time; null counts as absent."""

  def __init__(self, fields: Mapping[str, Any]):
    self._fields = fields

  def __call__(self, name: str, default: Any, holds: Callable[[Any], bool],
               wanted: str) -> Any:
    value = self._fields.get(name)
    if value is None:
      if default is None and name == "model":
        raise Refused("model is missing", "model")
      return default
    if not holds(value):
      raise Refused(f"{name}={_shown(value)} must be {wanted}", name)
    return value


def _object(body: bytes) -> dict[str, Any]:
  def refuse(constant):
    raise ValueError(f"{constant} is not JSON")

  try:
    fields = json.loads(body.decode(), parse_constant=refuse)
  except (ValueError, RecursionError) as error:
    raise Refused(f"the body is not JSON: {str(error)[:200]}") from error
  if not isinstance(fields, dict):
    raise Refused("the body must be a JSON object")
  return fields


def _messages(given: Any) -> tuple[Message, ...]:
  if not isinstance(given, list) or not given:
    raise Refused("messages must be a list of at least one message", "messages")
  messages = []
  for at, message in enumerate(given):
    name = f"messages[{at}]"
    if not isinstance(message, dict):
      raise Refused(f"{name} must be an object", "messages")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
      raise Refused(f"{name}.role={_shown(role)} must be one of"
                    f" {', '.join(_ROLES)}", "messages")
    for field in ("tool_calls", "function_call", "audio"):
      if message.get(field):
        raise Refused(f"{name}.{field} is not supported", "messages")
    messages.append({"role": _ROLES[role], "content": _content(
        message.get("content"), f"{name}.content")})
  if messages[-1]["role"] == "assistant":
    raise Refused("the last of messages must not be the assistant's; to"
                  " continue a text use /v1/completions", "messages")
  return tuple(messages)


def _content(content: Any, name: str) -> str:
  """The text of a message's content, its text parts joined."""
  if isinstance(content, list) and content:
    parts = [part.get("text") if isinstance(part, dict)
             and part.get("type") == "text" else None for part in content]
    if all(map(_is_text, parts)):
      return "".join(parts)
  if not _is_text(content):
    raise Refused(f"{name} must be a text, or parts of type text", "messages")
  return content


def _prompts(given: Any) -> tuple[str | list[int], ...]:
  wanted = ("prompt must be a text, a list of texts, a list of token ids, or a"
            f" list of such lists, at most {MAX_PROMPTS}, none empty")
  if _is_text(given) or _is_ids(given):
    given = [given]
  if (not isinstance(given, list) or not 0 < len(given) <= MAX_PROMPTS
      or not (all(map(_is_text, given)) or all(map(_is_ids, given)))
      or not all(given)):
    raise Refused(wanted, "prompt")
  return tuple(given)


def _stops(given: Any) -> tuple[str, ...]:
  stops = [given] if isinstance(given, str) else given
  stops = [] if stops is None else stops
  if (not isinstance(stops, list) or len(stops) > MAX_STOPS
      or not all(_is_text(s) and 0 < len(s) <= MAX_STOP for s in stops)):
    raise Refused(f"stop must be a text or a list of at most {MAX_STOPS}, each"
                  f" of 1 to {MAX_STOP} characters", "stop")
  return tuple(stops)


def _is_object(value: Any) -> bool:
  return isinstance(value, dict)


def _is_text(value: Any) -> bool:
  """Whether it is a str without lone surrogates, which JSON can contain."""
  if not isinstance(value, str):
    return False
  try:
    value.encode()
  except UnicodeEncodeError:
    return False
  return True


def _is_flag(value: Any) -> bool:
  return isinstance(value, bool)


def _is_integer(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_ids(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(
      map(_is_integer, value))


def _no_tops(value: Any) -> bool:
  return _is_integer(value) and value == 0 or value is False


def _at_least(least: int, most: int = 2**31) -> Callable[[Any], bool]:
  return lambda value: _is_integer(value) and least <= value <= most


def _between(low: float, high: float, above: bool = False
             ) -> Callable[[Any], bool]:
  def holds(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN is in no interval.
    return (number and low <= value <= high and not (above and value == low))
  return holds


def _shown(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f"{text[:60]}..."
