"""Chats: messages rendered by a model's own template.

A template is a program that comes with a model's files. It runs in Jinja's
immutable sandbox: it sees the messages and the special tokens, no file, no
attribute that begins with an underscore, and changes nothing. What the sandbox
cannot bound is time: `range` is limited to 100,000, but nested loops multiply;
a template that loops for ever has to be interrupted.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.sandbox
import jinja2.utils

from r1jax.data.tokenizer import Tokenizer

THINK = "<think>\n"
# The form of DeepSeek-R1 (arXiv:2501.12948): system text, then turns; of past
# answers only what follows the thought; the next answer begins with a thought.
R1 = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == "system" -%}
    {{- message.content -}}
  {%- elif message.role == "user" -%}
    <｜User｜>{{- message.content -}}
  {%- elif message.role == "assistant" -%}
    <｜Assistant｜>{{- message.content.split("</think>")[-1] ~ eos_token -}}
  {%- else -%}
    {{- raise_exception("there is no role " ~ message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<｜Assistant｜><think>\\n" -}}
{%- endif -%}
"""
_R1_TOKENS = frozenset({"<｜User｜>", "<｜Assistant｜>"})
# A thought that the template opened, or closed at once to forbid one.
_TAIL = re.compile(r"(?:<think>\s*(?:</think>\s*)?|</think>\s*)\Z")
# What templates that can think or not call their switch (DeepSeek-V3.1, Qwen3).
_SWITCHES = {"thinking": True, "enable_thinking": True}


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *,
           template: str | None = None, add_generation_prompt: bool = True,
           think: bool = False) -> str:
  """The text of a chat, for `tokenizer.encode_chat`.

  Args:
    tokenizer: its special tokens are the template's variables.
    messages: {"role": "system" | "user" | "assistant", "content": text} each.
    template: Jinja source; the tokenizer's own if None. `R1` is built in.
    add_generation_prompt: whether to end where the assistant begins.
    think: whether to open a thought there: by the template's own switch if it
      has one, else after it, unless it has opened one.

  Raises:
    ValueError: there is no template, the tokenizer lacks its tokens, a message
      is malformed or spells a control token, or the template fails, refuses
      the messages or leaves the sandbox.
  """
  name = "chat template" if template is None else "given chat template"
  source = tokenizer.chat_template if template is None else template
  if source is None:
    raise ValueError(
        "the tokenizer has no chat template: give --tokenizer=DIR of a chat"
        " model, or --template=r1-zero or plain")
  if source == R1 and not _R1_TOKENS <= tokenizer.control_tokens:
    raise ValueError(
        f"the tokenizer has no {' and '.join(sorted(_R1_TOKENS))}, which R1's"
        " template is made of; use --template=chat for the model's own")
  check_messages(messages, tokenizer.control_tokens)
  try:
    text = _compiled(source).render(
        messages=[dict(message) for message in messages],
        add_generation_prompt=add_generation_prompt, tools=None,
        documents=None, **tokenizer.special_tokens,
        **(_SWITCHES if think else {}))
  except Exception as error:  # a template can fail in every way a program can
    raise ValueError(
        f"the {name} {source[:40]!r}... failed:"
        f" {type(error).__name__}: {error}") from error
  if think and add_generation_prompt and not tail(text):
    text += THINK
  return text


def tail(text: str) -> str:
  """The beginning of the answer that a rendered chat ends with, or ""."""
  match = _TAIL.search(text)
  return match.group() if match else ""


def check_messages(messages: Sequence[Mapping[str, str]],
                   control_tokens: Collection[str]) -> None:
  """Raises ValueError if a message is malformed or spells a control token."""
  if not messages:
    raise ValueError("there are no messages: give at least one")
  for number, message in enumerate(messages):
    if not all(isinstance(message.get(k), str) for k in ("role", "content")):
      raise ValueError(
          f"message {number} is {message!r}: give role and content, both text")
    tokens = [t for t in control_tokens if t in message["content"]]
    if tokens:
      raise ValueError(
          f"message {number} contains the control token {tokens[0]}, which"
          " would end its turn or begin another; leave it out")


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
  return _environment().from_string(source)


@functools.cache
def _environment() -> jinja2.Environment:
  """What templates may use, as transformers offers it to them."""
  env = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True,
      extensions=["jinja2.ext.loopcontrols", _Generation])
  # Jinja's own escapes HTML.
  env.filters["tojson"] = _tojson
  env.globals |= {
      "raise_exception": _raise, "strftime_now": _strftime_now,
      "dict": lambda *args, **fields: dict(*args, **fields),
      "namespace": _namespace}
  return env


class _Generation(jinja2.ext.Extension):
  """`{% generation %}` marks what assistants say, for trainers: its content."""

  tags = frozenset({"generation"})

  def parse(self, parser: Any) -> Any:
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None,
            sort_keys: bool = False) -> str:
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent,
                    separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
  raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
  """Today, as some templates tell it: such prompts change from day to day."""
  return datetime.datetime.now().strftime(form)


class _Namespace(jinja2.utils.Namespace):
  """Jinja's, without names that Python itself looks for."""

  def __setitem__(self, name: str, value: Any) -> None:
    if name.startswith("_"):
      raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")
    super().__setitem__(name, value)


def _namespace(*args: Any, **fields: Any) -> _Namespace:
  made = _Namespace()
  for name, value in dict(*args, **fields).items():
    made[name] = value
  return made
