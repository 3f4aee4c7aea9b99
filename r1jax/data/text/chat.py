"""Renders chats by a model's own chat template.

A template is a program that comes with a model's files. It runs in Jinja's
immutable sandbox in a separate process, see `rendering`: it has access to the
messages and the special tokens, but not to files or attributes that begin with
an underscore, and has limits of time, memory and length.

Control tokens in messages are escaped, so only the template can write control
tokens (`tokenizer.escaped`).

Templates of models that also take images (among guards Llama Guard 3 1B and 4)
expect a message's content as a list of parts, and render nothing for a text,
without an error: a guard would judge an empty conversation. So if no message's
text is in the result, each text is passed as a list of one part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.core.config import check
from r1jax.data.text import rendering
from r1jax.data.text.tokenizer import Tokenizer, escaped

THINK = "<think>\n"
# DeepSeek-R1's format (arXiv:2501.12948): system text, then turns; past answers
# without their thoughts; the next answer begins with a thought.
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
# A thought that the template opens, or also closes to suppress it.
_TAIL = re.compile(r"(?:<think>\s*(?:</think>\s*)?|</think>\s*)\Z")
# Variables that switch thinking on in templates (DeepSeek-V3.1, Qwen3).
_SWITCHES = {"thinking": True, "enable_thinking": True}


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *,
           template: str | None = None, add_generation_prompt: bool = True,
           think: bool = False,
           variables: Mapping[str, Any] | None = None) -> str:
  """The text of a chat, for `tokenizer.encode_chat`.

  Args:
    tokenizer: its special tokens are variables of the template.
    messages: {"role": "system" | "user" | "assistant", "content": text} each.
    template: Jinja source, such as `R1`; None for the tokenizer's own.
    add_generation_prompt: whether to end with the beginning of an assistant's
      turn.
    think: whether to open a thought there: by the template's own switch, or by
      appending `THINK` if the template has not opened one.
    variables: further variables of the template, JSON-serialisable.

  Returns:
    The text, with the control tokens in messages escaped.

  Raises:
    ValueError: there is no template, it does not mention one of `variables`,
      the tokenizer lacks its tokens, a message is malformed, or it fails,
      refuses the messages, violates the sandbox or exceeds a limit.
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
  check_messages(messages)
  safe = [dict(message) | {"content": escaped(
      message["content"], tokenizer.control_tokens)} for message in messages]
  given = {
      "messages": safe, "add_generation_prompt": add_generation_prompt,
      "tools": None, "documents": None}
  taken = sorted(given.keys() & (variables or {}).keys())
  check(not taken, f"the template's variables {taken} cannot be given here")
  unread = [name for name in variables or {}
            if not re.search(rf"\b{re.escape(name)}\b", source)]
  check(not unread, f"the {name} reads no variable {', '.join(unread)}; its own"
        " names are in chat_template.jinja or tokenizer_config.json")
  given |= dict(tokenizer.special_tokens) | (_SWITCHES if think else {}) | (
      variables or {})
  try:
    text = rendering.render(source, given, tokenizer.date)
    if not _shows(text, safe):
      parts = given | {"messages": [
          message | {"content": [{"type": "text", "text": message["content"]}]}
          for message in safe]}
      if _shows(other := rendering.render(source, parts, tokenizer.date), safe):
        text = other
  except (TypeError, ValueError) as error:
    raise ValueError(f"the {name} {source[:40]!r}... failed: {error}"
                     ) from error
  if think and add_generation_prompt and not tail(text):
    text += THINK
  return text


def _shows(text: str, messages: Sequence[Mapping[str, str]]) -> bool:
  """Whether any message's text is in the rendered one; True if all are blank.
  """
  texts = [message["content"].strip() for message in messages]
  return not any(texts) or any(one and one in text for one in texts)


def tail(text: str) -> str:
  """The beginning of an answer at the end of a rendered chat: tags, or ""."""
  match = _TAIL.search(text)
  return match.group() if match else ""


def check_messages(messages: Sequence[Mapping[str, str]]) -> None:
  """Raises ValueError if there are no messages or one is malformed."""
  if not messages:
    raise ValueError("there are no messages: give at least one")
  for number, message in enumerate(messages):
    if not all(isinstance(message.get(k), str) for k in ("role", "content")):
      raise ValueError(
          f"message {number} is {message!r}: give role and content, both text")
