"""Synthetic general requests, and good and bad answers to them.

A request is data; its wording is one of the forms of its kind and language.
`rewards.requests` judges answers by the data only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from r1jax.data.sources.generated import draws
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import words
from r1jax.data.sources.world.words import Word

# Fields of the wording, and further attributes of the Request.
_Parts = tuple[dict[str, str], dict[str, Any]]

KINDS = ("greet", "list", "translate", "repeat", "about")
_FORMS = {
    "greet": {"en": ("Say {x} to {who}.", "Tell {who} {x}."),
              "zh": ("对{who}说{x}。", "跟{who}说{x}。")},
    "list": {"en": ("Name {n} {x}.", "List {n} {x}."),
             "zh": ("说出{n}种{x}。", "列出{n}种{x}。")},
    "translate": {"en": ("What is {x} in Chinese?", "Say {x} in Chinese."),
                  "zh": ("{x}用英语怎么说？", "用英语说{x}。")},
    "repeat": {"en": ("Say {x} {n} times.", "Write {x} {n} times."),
               "zh": ("把{x}说{n}遍。", "写{n}遍{x}。")},
    "about": {"en": ("Who are you?", "Are you a person?", "What are you?"),
              "zh": ("你是谁？", "你是人吗？", "你是什么？")},
}
ABOUT = {"en": "I am an assistant.", "zh": "我是助手。"}
# Polite openings, and chatter without content.
POLITE = {"en": ("Sure! ", "Gladly. ", "Of course! "),
          "zh": ("好的！", "当然！", "没问题。")}
CHATTER = {"en": (" Have a nice day!", " That was a good question!",
                  " Thank you so much!", " Ask me more!", " I hope it helps!"),
           "zh": ("祝你愉快！", "问得好！", "非常感谢！", "再问我吧！",
                  "希望有帮助！")}
_JOINTS = {"en": ", ", "zh": "、"}


class Request(NamedTuple):
  """A request and what a right answer to it is.

  Attributes:
    kind: one of KINDS.
    language: of the request.
    question: its wording.
    wanted: texts of which a right answer contains `count` different ones.
    count: see wanted.
    repeats: how often a right answer contains the wanted text.
    answer_language: of a right answer.
    others: texts that a right answer does not contain: other names, words of
      other groups.
  """

  kind: str
  language: str
  question: str
  wanted: tuple[str, ...]
  count: int = 1
  repeats: int = 1
  answer_language: str = "en"
  others: tuple[str, ...] = ()

  def reference(self) -> dict[str, Any]:
    """The reference for the verifier `rewards.requests`."""
    return {"wanted": list(self.wanted), "count": self.count,
            "repeats": self.repeats, "language": self.answer_language,
            "others": list(self.others), "polite": [
                text.strip() for text in POLITE[self.answer_language]]}


def draw(dice: Dice, language: str, kind: str = "") -> Request:
  """A random request; of any kind if `kind` is empty."""
  return dice.pick(_ALL[kind or dice.pick(KINDS), language])


def split_of(request: Request) -> str:
  """The split of a request: by its content, whatever the wording.

  `about` has only one content, which is in "train". There are few contents, so
  two thirds of those that would be in "validation" are in "test": without them
  40 requests are left to test, too few to tell models ten points apart.
  """
  if request.kind == "about":
    return "train"
  content = ["request", request.kind, request.language, *request.wanted[:1],
             request.count, request.repeats]
  split = draws.share(content)
  if split == "validation" and draws.Dice("tested", *content).below(3):
    return "test"
  return split


def read(question: str) -> Request | None:
  """The request that has this wording, or None."""
  return _READ.get(question)


def good(dice: Dice, request: Request) -> str:
  """A right and short answer."""
  core = _core(dice, request)
  return (dice.pick(POLITE[request.answer_language]) if dice.below(3) == 0
          else "") + core


def web(dice: Dice, request: Request) -> str:
  """An answer as on a web page: right, wrong, in the wrong language, chatty."""
  way, language = dice.random(), request.answer_language
  if way < 0.30:
    return good(dice, request)
  if way < 0.50:  # about something else
    other = draw(dice, request.language, request.kind)
    return _core(dice, other)
  if way < 0.62:  # in the other language
    other = draw(dice, "zh" if request.language == "en" else "en",
                 request.kind)
    return _core(dice, other)
  if way < 0.72:
    return request.question
  chatter = "".join(dice.pick(CHATTER[language])
                    for _ in range(1 + dice.below(4)))
  if way < 0.80:
    return chatter.strip()
  return good(dice, request) + chatter


def _core(dice: Dice, request: Request) -> str:
  joint = _JOINTS[request.answer_language]
  if request.kind == "greet":
    return request.wanted[0]
  if request.kind == "about":
    return request.wanted[0]
  if request.kind == "repeat":
    return joint.join(request.wanted[:1] * request.repeats)
  return joint.join(dice.sample(request.wanted, request.count))


def _greet(language: str) -> Iterator[_Parts]:
  form = {"en": "{}, {}!", "zh": "{}，{}！"}[language]
  for who, x in itertools.product(words.NAMES, words.GREETINGS):
    said = x.of(language)
    said = said[0].upper() + said[1:]
    yield {"who": who.of(language), "x": x.of(language)}, {
        "wanted": (form.format(said, who.of(language)),),
        "others": _others(words.NAMES, who, language)}


def _list(language: str) -> Iterator[_Parts]:
  for group, count in itertools.product(words.GROUPS, words.COUNTS):
    yield {"n": words.COUNTS[count].of(language), "x": group.of(language)}, {
        "wanted": _of(words.GROUPS[group], language), "count": count,
        "others": tuple(text for other, items in words.GROUPS.items()
                        if other != group for text in _of(items, language))}


def _translate(language: str) -> Iterator[_Parts]:
  target = "zh" if language == "en" else "en"
  for word in (known := words.NOUNS + words.COLOURS):
    yield {"x": word.of(language)}, {
        "wanted": (word.of(target),), "answer_language": target,
        "others": _others(known, word, target)}


def _repeat(language: str) -> Iterator[_Parts]:
  for word, count in itertools.product(words.NOUNS, words.COUNTS):
    yield {"x": word.of(language), "n": words.COUNTS[count].of(language)}, {
        "wanted": (word.of(language),), "repeats": count,
        "others": _others(words.NOUNS, word, language)}


def _about(language: str) -> Iterator[_Parts]:
  yield {}, {"wanted": (ABOUT[language],)}


def _of(items: Sequence[Word], language: str) -> tuple[str, ...]:
  return tuple(item.of(language) for item in items)


def _others(items: Sequence[Word], one: Word, language: str
            ) -> tuple[str, ...]:
  return _of([item for item in items if item != one], language)


_MAKERS = {"greet": _greet, "list": _list, "translate": _translate,
           "repeat": _repeat, "about": _about}
_ALL = {
    (kind, language): tuple(
        Request(kind, language, form.format(**fields),
                **{"answer_language": language} | about)
        for fields, about in _MAKERS[kind](language)
        for form in _FORMS[kind][language])
    for kind in KINDS for language in words.LANGUAGES}
_READ = {request.question: request
         for requests in _ALL.values() for request in requests}
