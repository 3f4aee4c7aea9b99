"""Prompt templates: from a question to the text that the model continues.

A template prescribes the form of an answer, not its content. It is one of

  - a plain template by name: "r1-zero" or "plain";
  - a chat template by name, one of `CHATS`, optionally with variables
    (chat:enable_thinking=False), a system message (chat:system="...") and
    instruct=False (see `Chat`);
  - a wording: any text that contains {question}; `read` takes it from a file.

In plain templates and wordings the completion follows the last character
directly, so it usually begins with a space.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import ask
from r1jax.data.text import chat
from r1jax.data.text.tokenizer import Tokenizer, escaped

QUESTION = "{question}"

# Our own wording, see `render`.
R1_ZERO = (
    "The User asks, the Assistant thinks it over, then answers, as in"
    " <think> thoughts </think> <answer> answer </answer>"
    " User: {question} Assistant:")

PLAIN = "Question: {question} Answer:"

TEMPLATES = {"r1-zero": R1_ZERO, "plain": PLAIN}
# Chat templates: name -> arguments of `chat.render`.
CHATS = {"chat": {}, "chat-think": {"think": True}, "r1": {"template": chat.R1}}


_ANSWER = "ZQX"  # occurs in no template
_WORDS = {"True": True, "False": False, "None": None}


class Chat(NamedTuple):
  """A chat template's name, parsed.

  Attributes:
    options: arguments of `chat.render`.
    system: system message for conversations that have none, or "".
    instructs: whether an instruction on the answer's form may be appended to
      questions (`rewards.asked`).
  """

  options: Mapping[str, Any]
  system: str = ""
  instructs: bool = True


@functools.lru_cache(maxsize=16)
def chat_of(template: str) -> Chat | None:
  """Parses NAME or NAME:VARIABLE=VALUE,...; None if NAME is not in `CHATS`.

  Raises:
    ValueError: the part after the colon is malformed or has a variable twice,
      system is not a text, or instruct is neither True nor False.
  """
  name, colon, given = template.partition(":")
  if name not in CHATS or QUESTION in template:
    return None
  check(bool(given) or not colon, f"template={template!r}: '' is not"
        f" NAME=VALUE, as in {name}:enable_thinking=False")
  pairs = list(_variables(given, name, template))
  variables = dict(pairs)
  check(len(variables) == len(pairs), f"template={template!r}: a variable is"
        " there twice; keep one")
  system = variables.pop("system", "")
  instructs = variables.pop("instruct", True)
  check(isinstance(system, str) and isinstance(instructs, bool),
        f"template={template!r}: system takes a text, instruct True or False")
  return Chat(CHATS[name] | {"variables": variables}, system, instructs)


def with_system(template: str, text: str) -> str:
  """A chat template's name with its system message set or replaced.

  Args:
    template: a name of `CHATS`, with or without variables.
    text: the message, or file:PATH of a UTF-8 file that has it.

  Raises:
    ValueError: not a chat template, the file cannot be read, or the message
      contains {question}.
  """
  check(chat_of(template) is not None, f"template={template[:40]!r} has no room"
        " for a system message; use --template=chat, chat-think or r1, or write"
        " the text into a template of your own (file:PATH)")
  kind, _, path = text.partition(":")
  if kind == "file":
    text = _file(path, f"system message {text}", "give a text file")
  check(QUESTION not in text, f"a system message cannot contain {QUESTION}; the"
        " question is a message of its own")
  name, _, given = template.partition(":")
  kept = [f"{key}={json.dumps(value, ensure_ascii=False)}"
          for key, value in _variables(given, name, template)
          if key != "system"]
  return f"{name}:" + ",".join(
      [*kept, f"system={json.dumps(text, ensure_ascii=False)}"])


def _variables(given: str, name: str, template: str
               ) -> Iterator[tuple[str, Any]]:
  """(NAME, value) of NAME=VALUE,NAME=VALUE; quoted values are JSON strings."""
  wrong = f" is not NAME=VALUE, as in {name}:enable_thinking=False"
  while given:
    key, equals, rest = given.partition("=")
    check(key.strip().isidentifier() and bool(equals), f"template={template!r}:"
          f" {(given if equals else key)!r}{wrong}")
    if (rest := rest.lstrip()).startswith('"'):
      try:
        value, end = json.JSONDecoder().raw_decode(rest)
      except ValueError as error:
        raise ValueError(f"template={template!r}: {rest[:40]!r} is not a valid"
                         " text in double quotes") from error
      check(rest[end:end + 1] in ("", ","),
            f"template={template!r}: {rest[end:]!r}{wrong}")
      yield key.strip(), value
      given = rest[end + 1:]
    else:
      text, _, given = rest.partition(",")
      yield key.strip(), _value(text.strip())


def _value(text: str) -> Any:
  """True, False, None, a JSON value such as a number, or the text itself."""
  if text in _WORDS:
    return _WORDS[text]
  try:
    return json.loads(text)
  except ValueError:
    return text


class Rendered(NamedTuple):
  """A prompt.

  Attributes:
    ids: that the model continues.
    tail: the beginning of the answer, such as <think>, if the prompt ends with
      one; or "".
  """

  ids: list[int]
  tail: str


def read(template: str) -> str:
  """The wording in the file of `file:PATH`; any other template unchanged.

  The whole file is the wording, including a newline at its end, since the model
  continues the text after {question}. Other braces are plain text.

  Raises:
    ValueError: the file cannot be read or is not UTF-8, or a wording does not
      contain {question} exactly once; the message says what to write.
  """
  kind, _, path = template.partition(":")
  if kind != "file" and not is_wording(template):
    return template
  what, text = f"template {template}", template
  if kind == "file":
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
        f"{what} has {QUESTION} in additional braces; write {QUESTION} and do"
        " not double other braces")
  return text


def _file(path: str, what: str, remedy: str) -> str:
  try:
    return io.read_bytes(path).decode("utf-8-sig")
  except OSError as error:
    raise ValueError(f"{what} cannot be read ({error.strerror or error});"
                     f" {remedy}") from error
  except UnicodeDecodeError as error:
    raise ValueError(
        f"{what} is not UTF-8 ({error.reason} at byte {error.start}); save it"
        " as UTF-8 text") from error


def with_its_system(messages: Sequence[Mapping[str, str]], template: str
                    ) -> list[Mapping[str, str]]:
  """The messages; preceded by the template's system message if without one."""
  found = chat_of(template)
  if not found or not found.system or messages and (
      messages[0].get("role") == "system"):
    return list(messages)
  return [{"role": "system", "content": found.system}, *messages]


def prompt(messages: Sequence[Mapping[str, str]], template: str,
           tokenizer: Tokenizer) -> Rendered:
  """Renders a conversation that ends with a question, as ids.

  "chat" is the tokenizer's own chat template, "chat-think" the same followed
  by <think>, "r1" that of DeepSeek-R1. These write bos themselves; in front of
  plain templates and wordings it is added if the tokenizer's `bos_id` is set.
  Plain templates and wordings have room for one question, so earlier messages
  become paragraphs before it.

  Control tokens in a wording or a chat template become their ids; in a question
  they stay text.

  Args:
    messages: the conversation.
    template: see the module's docstring; no file:PATH.
    tokenizer: the model's.

  Raises:
    ValueError: unknown template, or as `chat.render`.
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
  """The id of the control token that a chat template writes after an answer.

  None if it writes none, and for plain templates and wordings.

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
  """The tokenizer, with the template's `turn_end` among its `eos_ids`.

  A base model's tokenizer may lack it: then sampling would not stop at the end
  of an answer.

  Raises:
    ValueError: a chat template shows nothing of the question.
  """
  try:
    end = turn_end(template, tokenizer)
    found = chat_of(template)
    shown = {chat.render(tokenizer, ask(word), **found.options)
             for word in ("a", "b")} if found else ()
  except ValueError:  # reported when the template is rendered
    return tokenizer
  check(len(shown) != 1, "the tokenizer's chat template shows nothing of the"
        f" question: {(tokenizer.chat_template or '')[:60]!r}; give"
        " --tokenizer=DIR of a chat model, or --template=r1-zero or plain")
  return tokenizer if end in (None, *tokenizer.eos_ids) else (
      tokenizer.ending(end))


def is_wording(template: str) -> bool:
  """Whether a template is a text with {question}, not a name."""
  return QUESTION in template


def asked(question: str, template: str, tokenizer: Tokenizer) -> str:
  """The question for `render`, escaped if `encode` would read control tokens.
  """
  return (escaped(question, tokenizer.control_tokens) if is_wording(template)
          else question)


def encode(text: str, template: str, tokenizer: Tokenizer, *,
           begins: bool = True) -> list[int]:
  """Ids of a text that `template` rendered.

  Args:
    text: a prompt, or a part of a chat.
    template: a name or a wording.
    tokenizer: the model's.
    begins: whether to put bos in front if the tokenizer's `bos_id` is set; not
      for chat templates, nor if the text begins with it.
  """
  if template in TEMPLATES:
    ids = tokenizer.encode(text)
  else:
    ids = tokenizer.encode_chat(text)
  chats = chat_of(template) is not None
  bos = None if chats else tokenizer.bos_id
  return ids if not begins or bos in (None, *ids[:1]) else [bos, *ids]


def tail(template: str) -> str:
  """The beginning of the answer in a plain template or wording, or ""."""
  text = TEMPLATES.get(template, template)
  return chat.tail(text.partition(QUESTION)[2])


def render(question: str, template: str = "r1-zero") -> str:
  """Puts `question` into a plain template or a wording.

  "r1-zero" has the form of the R1-Zero template (arXiv:2501.12948, Table 1): a
  preamble, a one-line schema, the two speakers. Its wording is ours and
  shorter; the published one can be used as a file.

  Raises:
    ValueError: unknown template; the message lists the known ones.
  """
  text = TEMPLATES.get(template, template)
  before, placeholder, after = text.partition(QUESTION)
  if not placeholder:
    raise ValueError(
        f"template={template!r} is unknown; choose from"
        f" {', '.join(sorted([*TEMPLATES, *CHATS]))}, or give your own as"
        f" file:PATH, a text with {QUESTION}")
  return before + question + after
