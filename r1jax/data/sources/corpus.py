"""The pre-training data of the built-in base model: a small, unreliable web.

Most pages in the form of the prompt guess the answer. A minority writes correct
steps, some have errors in their steps, many are fragments. Other pages teach
what steps are made of: equations, sums with steps, copied text. No page was
selected by a reward. A page is a function of (seed, index).
"""

from __future__ import annotations

import dataclasses
import random

from r1jax.core import config as config_lib
from r1jax.data.sources import arithmetic
from r1jax.data.text import templates

_STREAM = 255  # larger than any level of arithmetic.problem

# Texts between the tags of a guess, mostly empty. If they were more diverse,
# none would be the most likely page, and greedy decoding would find the pages
# with steps.
FILLERS = ("",) * 16 + ("hm", "let me see", "this is easy", "a quick guess")
BARE = (" {}", " {}.", " The answer is {}.", " I think it is {}.", " It is {}.",
        " About {}.")
CHATTER = (
    "I am not sure.", "Let me think about it.", "This is hard.",
    "I do not know the answer.", "Thanks for the question.", "Sorry, not now.",
    "You can work it out.", "That is a good question.", "Ask me more.",
)
PROSE = (
    "{who} went to the shop with {other}.", "They have {n} {x} at home.",
    "It was a good day.", "{other} likes {x} and {y}.", "The bus was late.",
    "{who} sells {x} for {n} coins.", "There is a box of {x} in the shop.",
    "People like {y} more than {x}.", "{who} finds {x} by the sea.",
)
NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")
THINGS = ("pears", "plums", "coins", "cards", "books", "shells", "stones")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
  """Shares of the mixture.

  Attributes:
    conversations: share of pages in the format of the prompt template.
    tagged, bare, stepped, spoiled, fragment: shares among conversations: a
      guess inside tags, a guess without tags, correct steps and answer, steps
      with an error, text without an answer.
    facts, worked, quote, plain, prose: shares among the other pages: lists of
      correct equations, sums with steps, a text that one person says and
      another repeats, questions with a guess, and sentences.
    guess_right: probability that a guess is right.
    guess_error: largest error of a wrong guess.
    wrong_fact: share of spoiled pages that have a false equation.
  """

  conversations: float = 0.40
  tagged: float = 0.44
  bare: float = 0.26
  stepped: float = 0.10
  spoiled: float = 0.05
  fragment: float = 0.15
  facts: float = 0.14
  worked: float = 0.58
  quote: float = 0.18
  plain: float = 0.06
  prose: float = 0.04
  guess_right: float = 0.05
  guess_error: int = 15
  wrong_fact: float = 0.10

  def __post_init__(self):
    for names in (
        ("tagged", "bare", "stepped", "spoiled", "fragment"),
        ("facts", "worked", "quote", "plain", "prose")):
      total = sum(getattr(self, name) for name in names)
      config_lib.check(
          abs(total - 1) < 1e-6 and all(getattr(self, n) >= 0 for n in names),
          f"{' + '.join(names)} = {total}: shares must sum to 1")
    for name in ("conversations", "guess_right", "wrong_fact"):
      value = getattr(self, name)
      config_lib.check(0 <= value <= 1, f"{name}={value} must be in 0..1")
    config_lib.check(
        1 <= self.guess_error <= arithmetic.MAX_TOTAL,
        f"guess_error={self.guess_error} must be in 1..{arithmetic.MAX_TOTAL}")


DEFAULT = CorpusConfig()


def document(seed: int, index: int, config: CorpusConfig = DEFAULT) -> str:
  """The text of page `index`; its problems are of the train split."""
  rng = arithmetic.rng_at(seed, index, _STREAM)
  return _PAGES[_kind(rng, config)](rng, config)


def kind(seed: int, index: int, config: CorpusConfig = DEFAULT) -> str:
  """The kind of page `index`: the name of its share in CorpusConfig."""
  return _kind(arithmetic.rng_at(seed, index, _STREAM), config)


def _kind(rng: random.Random, config: CorpusConfig) -> str:
  if rng.random() < config.conversations:
    names = ("tagged", "bare", "stepped", "spoiled", "fragment")
  else:
    names = ("facts", "worked", "quote", "plain", "prose")
  left = rng.random()
  for name in names:
    left -= getattr(config, name)
    if left < 0:
      return name
  return names[0]


def _pick(rng: random.Random, options):
  return options[int(rng.random() * len(options))]


def _problem(rng: random.Random) -> arithmetic.Problem:
  while True:
    level = _pick(rng, arithmetic.LEVELS["train"])
    problem = arithmetic.draw(rng, level)
    if arithmetic.split_of(problem) == "train":
      return problem


def _guess(rng: random.Random, config: CorpusConfig, answer: int) -> int:
  if rng.random() < config.guess_right:
    return answer
  return _off(rng, config, answer)


def _off(rng: random.Random, config: CorpusConfig, answer: int) -> int:
  error = config.guess_error
  return answer + arithmetic.nonzero(
      rng.random(), max(-error, -answer),
      min(error, arithmetic.MAX_TOTAL - answer))


def _answered(question: str, thoughts: str, answer: int) -> str:
  thoughts = f" {thoughts}" if thoughts else ""
  return (f"{templates.render(question)} <think>{thoughts} </think>"
          f" <answer> {answer} </answer>")


def _tagged(rng: random.Random, config: CorpusConfig) -> str:
  problem = _problem(rng)
  guess = _guess(rng, config, problem.answer)
  return _answered(problem.question, _pick(rng, FILLERS), guess)


def _bare(rng: random.Random, config: CorpusConfig) -> str:
  problem = _problem(rng)
  guess = _guess(rng, config, problem.answer)
  return templates.render(problem.question) + _pick(rng, BARE).format(guess)


def _stepped(rng: random.Random, config: CorpusConfig) -> str:
  del config  # unused; all pages have the same signature
  problem = _problem(rng)
  return _answered(
      problem.question, arithmetic.steps(problem), problem.answer)


def _spoiled(rng: random.Random, config: CorpusConfig) -> str:
  problem = _problem(rng)
  start, deltas, question = problem.start, problem.deltas, problem.question
  way, at = rng.random(), int(rng.random() * len(deltas))
  if way < config.wrong_fact:
    # One false result, from which the later steps continue.
    good = arithmetic.step_list(start, deltas[:at])
    total = start + sum(deltas[:at])
    wrong = _off(rng, config, total + deltas[at])
    sign = "+" if deltas[at] > 0 else "-"
    lines = good + [f"{total}{sign}{abs(deltas[at])}={wrong}"]
    rest = deltas[at + 1:] if _in_range(wrong, deltas[at + 1:]) else ()
    lines += arithmetic.step_list(wrong, rest)
    return _answered(question, " ".join(lines), wrong + sum(rest))
  way = (way - config.wrong_fact) / (1 - config.wrong_fact)
  if way < 0.3:
    answer = _off(rng, config, problem.answer)
    return _answered(question, arithmetic.steps(problem), answer)
  shorter = deltas[:at] + deltas[at + 1:]
  if way < 0.6 and _in_range(start, shorter):
    kept = shorter
  else:
    kept = deltas[:max(at, 1)]
  lines = arithmetic.step_list(start, kept)
  return _answered(question, " ".join(lines), start + sum(kept))


def _in_range(total: int, deltas: tuple[int, ...]) -> bool:
  for delta in deltas:
    total += delta
    if not 0 <= total <= arithmetic.MAX_TOTAL:
      return False
  return True


def _fragment(rng: random.Random, config: CorpusConfig) -> str:
  problem = _problem(rng)
  prompt, way = templates.render(problem.question), int(rng.random() * 4)
  if way == 0:
    return f"{prompt} {problem.question}"
  if way == 1:
    return f"{prompt} {_pick(rng, CHATTER)}"
  if way == 2:
    guess = _guess(rng, config, problem.answer)
    opened = f"<think> {_pick(rng, CHATTER)}", f"<answer> {guess}"
    return f"{prompt} {_pick(rng, opened)}"
  words = f"<think> {arithmetic.steps(problem)} </think>".split()
  return f"{prompt} {' '.join(words[:1 + int(rng.random() * len(words))])}"


def _facts(rng: random.Random, config: CorpusConfig) -> str:
  del config
  uniform, top = rng.random, arithmetic.MAX_OPERAND
  lines = []
  for _ in range(10 + int(uniform() * 11)):
    first = int(uniform() * (arithmetic.MAX_TOTAL + 1))
    delta = arithmetic.nonzero(
        uniform(), max(-top, -first), min(top, arithmetic.MAX_TOTAL - first))
    sign = "+" if delta > 0 else "-"
    lines.append(f"{first}{sign}{abs(delta)}={first + delta}")
  return " ".join(lines)


def _worked(rng: random.Random, config: CorpusConfig) -> str:
  """Steps: of a long sum without a question, or of a bare question."""
  del config
  if rng.random() < 0.15:
    problem = arithmetic.draw(rng, 9 + int(rng.random() * 6))
    return arithmetic.steps(problem)
  problem = _problem(rng)
  return f"{problem.question} {arithmetic.steps(problem)}"


def _quote(rng: random.Random, config: CorpusConfig) -> str:
  """A question or a list of numbers, said twice."""
  del config
  if rng.random() < 0.5:
    words = _problem(rng).question
  else:
    count = 4 + int(rng.random() * 9)
    numbers = (int(rng.random() * 100) for _ in range(count))
    words = " ".join(map(str, numbers))
  return f"{_pick(rng, NAMES)}: {words} {_pick(rng, NAMES)}: {words}"


def _plain(rng: random.Random, config: CorpusConfig) -> str:
  problem = _problem(rng)
  guess = _guess(rng, config, problem.answer)
  return templates.render(problem.question, "plain") + f" {guess}"


def _prose(rng: random.Random, config: CorpusConfig) -> str:
  del config
  return " ".join(
      _pick(rng, PROSE).format(
          who=_pick(rng, NAMES), other=_pick(rng, NAMES), x=_pick(rng, THINGS),
          y=_pick(rng, THINGS), n=2 + int(rng.random() * 98))
      for _ in range(2 + int(rng.random() * 4)))


_PAGES = {
    "tagged": _tagged, "bare": _bare, "stepped": _stepped, "spoiled": _spoiled,
    "fragment": _fragment, "facts": _facts, "worked": _worked,
    "quote": _quote, "plain": _plain, "prose": _prose,
}
