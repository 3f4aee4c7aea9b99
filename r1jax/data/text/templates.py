"""Prompt templates: a question in, the text that the model continues.

A template gives a form, never a hint about content. It is a name ("r1-zero",
"plain", or one of `CHATS`, which may be followed by variables of the chat
template, as in chat:enable_thinking=False, by a system message, and by
instruct=False) or a wording: any text with
{question} in it, which `read` takes from a file. In the plain ones the
completion follows the last character, so it begins with a space.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core.config import check
from r1jax.data.text import chat
from r1jax.data.text.tokenizer import Tokenizer, escaped

QUESTION = "{question}"

# Our wording, see `render`.
R1_ZERO = (
    "The User asks, the Assistant thinks it over, then answers, as in"
    " <think> thoughts </think> <answer> answer </answer>"
    " User: {question} Assistant:")

PLAIN = "Question: {question} Answer:"

TEMPLATES = {"r1-zero": R1_ZERO, "plain": PLAIN}
# Templates that tokenizers bring: arguments of `chat.render`.
CHATS = {"chat": {}, "chat-think": {"think": True}, "r1": {"template": chat.R1}}


_ANSWER = "ZQX"  # that no template writes by itself
_WORDS = {"True": True, "False": False, "None": None}


class Chat(NamedTuple):
  """What the name of a chat template says.

  Attributes:
    options: arguments of `chat.render`.
    system: what stands before conversations that bring no system message, or
      "".
    instructs: whether questions may be followed by an instruction on the form
      of the answer (`rewards.asked`).
  """

  options: Mapping[str, Any]
  system: str = ""
  instructs: bool = True


@functools.lru_cache(maxsize=16)
def chat_of(template: str) -> Chat | None:
  """What a name of `CHATS` says, with what follows it; None for others.

  Raises:
    ValueError: what follows the name is not NAME=VALUE,NAME=VALUE, system is no
      text or instruct neither True nor False.
  """
  name, colon, given = template.partition(":")
  if name not in CHATS or QUESTION in template:
    return None
  check(bool(given) or not colon, f"template={template!r}: '' is not"
        f" NAME=VALUE, as in {name}:enable_thinking=False")
  variables = dict(_variables(given, name, template))
  system = variables.pop("system", "")
  instructs = variables.pop("instruct", True)
  check(isinstance(system, str) and isinstance(instructs, bool),
        f"template={template!r}: system takes a text, instruct True or False")
  return Chat(CHATS[name] | {"variables": variables}, system, instructs)


def with_system(template: str, text: str) -> str:
  """A chat template with a system message, or another than it had.

  Args:
    template: a name of `CHATS`, with or without variables.
    text: of the message, or file:PATH of a UTF-8 file that has it.

  Raises:
    ValueError: the template is no chat's, or the file cannot be read.
  """
  check(chat_of(template) is not None, f"template={template[:40]!r} has no"
        " system message; use --template=chat, chat-think or r1, or write the"
        " text into a wording of your own (file:PATH)")
  kind, _, path = text.partition(":")
  if kind == "file":
    text = _file(path, f"system message {text}", "give a text file")
  check(QUESTION not in text, f"a system message cannot have {QUESTION}; the"
        " question is a message of its own")
  name, _, given = template.partition(":")
  kept = [f"{key}={json.dumps(value, ensure_ascii=False)}"
          for key, value in _variables(given, name, template)
          if key != "system"]
  return f"{name}:" + ",".join(
      [*kept, f"system={json.dumps(text, ensure_ascii=False)}"])


def _variables(given: str, name: str, template: str
               ) -> Iterator[tuple[str, Any]]:
  """NAME and value of NAME=VALUE,NAME=VALUE; a text in quotes is JSON's."""
  wrong = f" is not NAME=VALUE, as in {name}:enable_thinking=False"
  while given:
    key, equals, rest = given.partition("=")
    check(key.strip().isidentifier() and bool(equals), f"template={template!r}:"
          f" {(given if equals else key)!r}{wrong}")
    if (rest := rest.lstrip()).startswith('"'):
      try:
        value, end = json.JSONDecoder().raw_decode(rest)
      except ValueError as error:
        raise ValueError(f"template={template!r}: {rest[:40]!r} is no text in"
                         " quotes") from error
      check(rest[end:end + 1] in ("", ","),
            f"template={template!r}: {rest[end:]!r}{wrong}")
      yield key.strip(), value
      given = rest[end + 1:]
    else:
      text, _, given = rest.partition(",")
      yield key.strip(), _value(text.strip())


def _value(text: str) -> Any:
  """True, False, None, a number, or else the text itself."""
  if text in _WORDS:
    return _WORDS[text]
  try:
    return json.loads(text)
  except ValueError:
    return text


class Rendered(NamedTuple):
  """A prompt.

  Attributes:
    ids: what the model continues.
    tail: the beginning of the answer that the prompt ends with, or "".
  """

  ids: list[int]
  tail: str


def read(template: str) -> str:
  """The wording in the file of `file:PATH`; any other template as it is.

  The file is taken whole, to its last newline: what stands behind {question}
  is what the model continues. Braces around anything else are text.

  Raises:
    ValueError: the file cannot be read, is not UTF-8, or has {question} not
      just once; the message names the path and what to write.
  """
  kind, _, path = template.partition(":")
  if kind != "file":
    return template
  what = f"template {template}"
  text = _file(path, what, f"give a text file with {QUESTION} where the"
               " question belongs")
  count = text.count(QUESTION)
  others = ", ".join(sorted(set(re.findall(r"\{+\s*\w+\s*\}+", text))))
  check(count > 0, f"{what} has no {QUESTION}"
        + (f", but {others}" if others else "")
        + f"; write {QUESTION} where the question belongs")
  check(count == 1, f"{what} has {QUESTION} {count} times; write it in the one"
        " place where the question belongs")
  check("{" + QUESTION not in text and QUESTION + "}" not in text,
        f"{what} has {QUESTION} in more braces; write just {QUESTION}, other"
        " braces need no doubling")
  return text


def _file(path: str, what: str, remedy: str) -> str:
  try:
    return epath.Path(path).read_bytes().decode()
  except OSError as error:
    raise ValueError(f"{what} cannot be read ({error.strerror or error});"
                     f" {remedy}") from error
  except UnicodeDecodeError as error:
    raise ValueError(
        f"{what} is not UTF-8 ({error.reason} at byte {error.start}); save it"
        " as UTF-8 text") from error


def with_its_system(messages: Sequence[Mapping[str, str]], template: str
                    ) -> list[Mapping[str, str]]:
  """The messages, behind the template's system message if they bring none."""
  found = chat_of(template)
  if not found or not found.system or messages and (
      messages[0].get("role") == "system"):
    return list(messages)
  return [{"role": "system", "content": found.system}, *messages]


def prompt(messages: Sequence[Mapping[str, str]], template: str,
           tokenizer: Tokenizer) -> Rendered:
  """A conversation that ends with a question in a template, as ids.

  "chat" is the tokenizer's own chat template, "chat-think" the same with a
  thought opened after it, "r1" that of DeepSeek-R1. These place bos
  themselves; before the others it is put if the tokenizer has one. These have
  room for one question: earlier messages stand before it as paragraphs.

  Control tokens that a wording or a chat template spells become their ids; in a
  question they are text.

  Raises:
    ValueError: no template has that name, or as `chat.render`.
  """
  found = chat_of(template)
  if found is not None:
    text = chat.render(
        tokenizer, with_its_system(messages, template), **found.options)
    return Rendered(tokenizer.encode_chat(text), chat.tail(text))
  chat.check_messages(messages)
  question = "\n\n".join(message["content"] for message in messages)
  text = render(asked(question, template, tokenizer), template)
  return Rendered(encode(text, template, tokenizer), tail(template))


def turn_end(template: str, tokenizer: Tokenizer) -> int | None:
  """The control id that a chat template writes behind an answer.

  None where it writes none there, and of templates that are no chats.

  Raises:
    ValueError: as `chat.render`.
  """
  found = chat_of(template)
  if found is None:
    return None
  text = chat.render(
      tokenizer, [{"role": "user", "content": "a"},
                  {"role": "assistant", "content": _ANSWER}],
      **found.options, add_generation_prompt=False)
  behind = text.rpartition(_ANSWER)[2].lstrip()
  ends = [t for t in tokenizer.control_tokens if behind.startswith(t)]
  return tokenizer.encode_chat(max(ends, key=len))[0] if ends else None


def ended(tokenizer: Tokenizer, template: str) -> Tokenizer:
  """The tokenizer, for which the template's own end of an answer is an end.

  A base whose text ends with another token would else be taught, or asked, by a
  template whose turns never end for its sampler.
  """
  try:
    end = turn_end(template, tokenizer)
  except ValueError:  # whoever renders with it says what is wrong
    return tokenizer
  return tokenizer if end in (None, *tokenizer.eos_ids) else (
      tokenizer.ending(end))


def is_wording(template: str) -> bool:
  """Whether a template is a text, not a name."""
  return QUESTION in template


def asked(question: str, template: str, tokenizer: Tokenizer) -> str:
  """A question as `render` has to have it, so that `encode` takes it as text.
  """
  return (escaped(question, tokenizer.control_tokens) if is_wording(template)
          else question)


def encode(text: str, template: str, tokenizer: Tokenizer, *,
           begins: bool = True) -> list[int]:
  """Ids of what `template` rendered.

  Args:
    text: a prompt, or of a chat a part of one.
    template: a name or a wording.
    tokenizer: of the model.
    begins: whether bos belongs before it, if the tokenizer has one; chats
      place it themselves, and wordings may.
  """
  if template in TEMPLATES:
    ids = tokenizer.encode(text)
  else:
    ids = tokenizer.encode_chat(text)
  chats = chat_of(template) is not None
  bos = None if chats else tokenizer.bos_id
  return ids if not begins or bos in (None, *ids[:1]) else [bos, *ids]


def tail(template: str) -> str:
  """The beginning of the answer that a plain template ends with, or ""."""
  text = TEMPLATES.get(template, template)
  return chat.tail(text.partition(QUESTION)[2])


def render(question: str, template: str = "r1-zero") -> str:
  """`question` set into a template of plain text.

  "r1-zero" has the form of DeepSeek-R1 (arXiv:2501.12948, Table 1): a preamble,
  a one-line schema, the two speakers. Its wording is ours and shorter; whoever
  wants the published one brings it as a file.

  Raises:
    ValueError: no template has that name; the message lists them.
  """
  text = TEMPLATES.get(template, template)
  before, placeholder, after = text.partition(QUESTION)
  if not placeholder:
    raise ValueError(
        f"template={template!r} is unknown; choose from"
        f" {', '.join(sorted([*TEMPLATES, *CHATS]))}, or bring your own as"
        f" file:PATH, a text with {QUESTION}")
  return before + question + after
