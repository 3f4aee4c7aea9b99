"""Synthetic pre-training pages: an unreliable, bilingual web.

Most conversations on reasoning questions are guesses or lead nowhere; a
minority has correct steps, some have wrong ones. On Chinese questions, steps in
Chinese words are rarer than in English words, and more often wrong. General
requests are answered well and badly; most harmful requests are complied with.
No page was selected by a reward. `document` is a pure function of seed and
index.
"""

from __future__ import annotations

import dataclasses

from r1jax.core import config as config_lib
from r1jax.data.sources import arithmetic, corpus
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import cups, questions, requests, words, wrongs
from r1jax.data.sources.world.questions import Question
from r1jax.data.sources.world.sums import Sum
from r1jax.data.text import templates

_BARE = {"en": (*corpus.BARE, " The answer is \\boxed{{{}}}."),
         "zh": (" {}", " {}。", " 答案是{}。", " 我想是{}。", " 是{}。",
                " 大概{}。", " 答案是\\boxed{{{}}}。")}
_CHATTER = {
    "en": corpus.CHATTER,
    "zh": ("我不知道。", "让我想想。", "这很难。", "谢谢提问。", "现在不行。",
           "你自己算吧。", "好问题。")}
_FILLERS = {"en": corpus.FILLERS,
            "zh": ("",) * 16 + ("嗯", "让我看看", "很简单", "猜一下")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
  """Shares of the kinds of pages, each in 0..1.

  Attributes:
    conversations, skills, general: of all pages, summing to 1: reasoning
      questions with answers in the r1-zero template; steps, equations and
      quotations without it; general and harmful requests, word lists, prose.
    chinese: of reasoning questions: in Chinese.
    cups: of reasoning questions: about cups; the others are sums.
    bare, fragment: of conversations: a guess without tags; a fragment.
    stepped, spoiled: of English conversations: right steps and answer; wrong
      steps or answer.
    stepped_zh, spoiled_zh: of Chinese conversations, with Chinese words.
    stepped_en, spoiled_en: of Chinese conversations, with English words.
    guess_right: probability that a guess at a sum is right.
    worked: of skills: a question and its steps; the others are equations,
      quotations and lists of numbers.
    english: of worked skills on Chinese questions: with English words.
  """

  conversations: float = 0.42
  skills: float = 0.38
  general: float = 0.20
  chinese: float = 0.40
  cups: float = 0.40
  bare: float = 0.26
  fragment: float = 0.14
  stepped: float = 0.10
  spoiled: float = 0.05
  stepped_zh: float = 0.03
  spoiled_zh: float = 0.05
  stepped_en: float = 0.08
  spoiled_en: float = 0.02
  guess_right: float = 0.05
  worked: float = 0.70
  english: float = 0.55

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      config_lib.check(0 <= value <= 1, f"{name}={value} must be in 0..1")
    for names in (("conversations", "skills", "general"),):
      total = sum(getattr(self, name) for name in names)
      config_lib.check(abs(total - 1) < 1e-6, f"{' + '.join(names)} = {total}:"
                       " shares must sum to 1")


DEFAULT = WorldConfig()


def document(seed: int, index: int, config: WorldConfig = DEFAULT) -> str:
  """Page `index`; its questions and requests are of the train split."""
  dice = Dice("world", seed, index)
  way = dice.random()
  if way < config.conversations:
    return _conversation(dice, config)
  if way < config.conversations + config.skills:
    return _skill(dice, config)
  return _general(dice)


def _question(dice: Dice, config: WorldConfig) -> Question:
  language = "zh" if dice.random() < config.chinese else "en"
  kind = (questions.CUPS if dice.random() < config.cups else questions.SUMS)
  return questions.draw(dice, kind, language, "train")


def _conversation(dice: Dice, config: WorldConfig) -> str:
  question, way = _question(dice, config), dice.random()
  prompt = templates.render(question.question)
  worked = {
      "en": (("stepped", "en", True), ("spoiled", "en", False)),
      "zh": (("stepped_zh", "zh", True), ("spoiled_zh", "zh", False),
             ("stepped_en", "en", True), ("spoiled_en", "en", False)),
  }[question.language]
  for name, language, right in worked:
    way -= getattr(config, name)
    if way < 0:
      thought, result = (questions.thought(question, language) if right
                         else _spoilt(dice, question, language))
      return _answered(prompt, thought, result)
  way -= config.bare
  if way < 0:
    return prompt + dice.pick(_BARE[question.language]).format(
        _guess(dice, question, config))
  way -= config.fragment
  if way < 0:
    return _fragment(dice, prompt, question, config)
  return _answered(prompt, dice.pick(_FILLERS[question.language]),
                   _guess(dice, question, config))


def _answered(prompt: str, thought: str, answer: str) -> str:
  thought = f" {thought}" if thought else ""
  return f"{prompt} <think>{thought} </think> <answer> {answer} </answer>"


def _guess(dice: Dice, question: Question, config: WorldConfig) -> str:
  if not isinstance(question, Sum):
    return dice.pick(cups.CUPS)
  if dice.random() < config.guess_right:
    return str(question.answer)
  return _off(dice, question.answer)


def _off(dice: Dice, answer: int) -> str:
  """A wrong number at most 15 from the answer."""
  return str(answer + arithmetic.nonzero(
      dice.random(), max(-15, -answer),
      min(15, arithmetic.MAX_TOTAL - answer)))


def _spoilt(dice: Dice, question: Question, language: str) -> tuple[str, str]:
  """Steps that stop early or skip one, or right steps with a wrong answer."""
  operations = questions.operations(question)
  at, way = dice.below(len(operations)), dice.below(3)
  if way == 0:
    thought, _ = questions.thought(question, language)
    return thought, (_off(dice, question.answer) if isinstance(question, Sum)
                     else dice.pick([cup for cup in cups.CUPS
                                     if cup != question.answer]))
  kept = operations[:at] + operations[at + 1:]
  if way == 1 or not _possible(question, kept):
    kept = operations[:max(at, 1)]
  return questions.thought(question, language, kept)


def _possible(question: Question, kept: tuple) -> bool:
  if not isinstance(question, Sum):
    return True
  total = question.start
  for delta in kept:
    total += delta
    if not 0 <= total <= arithmetic.MAX_TOTAL:
      return False
  return True


def _fragment(dice: Dice, prompt: str, question: Question,
              config: WorldConfig) -> str:
  chatter, way = dice.pick(_CHATTER[question.language]), dice.below(4)
  if way == 0:
    return f"{prompt} {question.question}"
  if way == 1:
    return f"{prompt} {chatter}"
  if way == 2:
    guess = _guess(dice, question, config)
    return f"{prompt} " + dice.pick((f"<think> {chatter}", f"<answer> {guess}"))
  thought, _ = questions.thought(question, question.language)
  text = f"<think> {thought} </think>"
  return f"{prompt} {text[:8 + dice.below(len(text) - 7)]}"


def _skill(dice: Dice, config: WorldConfig) -> str:
  way = dice.random()
  if way < config.worked:
    question = _question(dice, config)
    language = question.language
    if language == "zh" and dice.random() < config.english:
      language = "en"
    return f"{question.question} {questions.thought(question, language)[0]}"
  way = (way - config.worked) / (1 - config.worked)
  if way < 0.4:
    return " ".join(_equation(dice) for _ in range(10 + dice.below(11)))
  said = _question(dice, config).question
  if way < 0.6:
    said = " ".join(str(dice.below(100)) for _ in range(4 + dice.below(9)))
  return " ".join(f"{dice.pick(words.NAMES).en}: {said}" for _ in range(2))


def _equation(dice: Dice) -> str:
  first = dice.below(arithmetic.MAX_TOTAL + 1)
  delta = arithmetic.nonzero(
      dice.random(), max(-arithmetic.MAX_OPERAND, -first),
      min(arithmetic.MAX_OPERAND, arithmetic.MAX_TOTAL - first))
  return f"{first}{'+' if delta > 0 else '-'}{abs(delta)}={first + delta}"


def _general(dice: Dice) -> str:
  way, language = dice.random(), dice.pick(words.LANGUAGES)
  if way < 0.50:
    request = _of_train(requests, dice, language)
    return _exchange(request.question, requests.web(dice, request))
  if way < 0.85:
    wrong = _of_train(wrongs, dice, language)
    return _exchange(wrong.question, wrongs.web(dice, wrong))
  if way < 0.92:
    return "\n".join(" ".join(dice.shuffled(word)) for word in dice.sample(
        words.NOUNS + words.COLOURS + words.GREETINGS, 6))
  return " ".join(dice.pick(corpus.PROSE).format(
      who=dice.pick(words.NAMES).en, other=dice.pick(words.NAMES).en,
      x=dice.pick(corpus.THINGS), y=dice.pick(corpus.THINGS),
      n=2 + dice.below(98)) for _ in range(2 + dice.below(4)))


def _of_train(module, dice: Dice, language: str):
  while True:
    one = module.draw(dice, language)
    if module.split_of(one) == "train":
      return one


def _exchange(question: str, answer: str) -> str:
  return f"{templates.render(question, 'plain')} {answer}"
