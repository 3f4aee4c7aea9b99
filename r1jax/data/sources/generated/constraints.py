"""Writing tasks with instructions of IFEval's types, which a rule can check.

The types, their ids and arguments are those of Instruction-Following Evaluation
for Large Language Models (arXiv:2311.07911). The topics, words and sentences
are our own. Left out: `language:response_language` (all questions are English)
and `detectable_format:constrained_response`.

Every answer must also use its topic's noun and 15 to 25 different words
(`length_constraints:distinct_words`, our own type). Otherwise one fixed text
would satisfy many instructions, such as "use no commas", for every topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

SPLITS = {"train": 2000, "validation": 128, "test": 128, "hard": 128}

_OPENINGS = ("Write about {}.", "Tell me about {}.", "Write a note on {}.",
             "Describe {}.", "Say something about {}.")
_TOPICS = (
    "rain", "snow", "a lighthouse", "a river", "the moon", "a small town",
    "an old clock", "a market", "a garden", "the sea", "a train ride",
    "a bakery", "a library", "a bridge", "winter", "spring", "a farm",
    "a museum", "a forest walk", "a football match", "a new shoe", "a red bike",
    "a birthday", "a school day", "a long road", "a storm", "a cup of tea",
    "a lost key", "a bus stop", "a good friend", "a mountain", "a harbour",
    "the night sky", "a puppy", "a letter", "a kitchen", "a song", "a dream",
    "an island", "a holiday",
)
_WORDS = (
    "bright", "calm", "early", "green", "happy", "kind", "late", "loud",
    "open", "quiet", "round", "slow", "soft", "strong", "warm", "young",
    "basket", "candle", "circle", "colour", "corner", "family", "feather",
    "finger", "glass", "hammer", "ladder", "morning", "number", "paper",
    "pocket", "question", "reason", "shadow", "story", "summer", "table",
    "window", "winner", "yellow",
)
_ENDINGS = (
    "That is all.", "Thank you for reading.", "I hope this helps.",
    "See you soon.", "What do you think?", "Now it is your turn.",
)


class Constraint(NamedTuple):
  """One instruction: its sentence, IFEval's id and arguments."""

  sentence: str
  id: str
  kwargs: dict[str, Any]


def prompts(split: str) -> Iterator[Prompt]:
  """A topic and 1 or 2 instructions (3 in "hard"), to be met together.

  The topic's noun and a number of different words are always required too.
  Instructions that could contradict each other are never combined, and no
  topic has the same instructions in two splits. metadata: level (the number of
  instructions besides noun and different words).

  Raises:
    ValueError: no such split.
  """
  return draws.distinct("constraints", SPLITS, split, _prompt)


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  level = 3 if split == "hard" else 1 + index % 2
  topic = dice.pick(_TOPICS)
  request = dice.pick(_OPENINGS).format(topic)
  families = _compatible(dice, level)
  chosen = _with_topic(topic, [family(dice, request) for family in families])
  chosen.append(_distinct(dice))
  content = [topic, sorted(constraint.sentence for constraint in chosen)]
  if split != "hard" and draws.share(content) != split:
    return None
  question = " ".join([request, *(c.sentence for c in chosen)])
  return Prompt(
      id=index, domain="general", source="constraints",
      messages=ask(question),
      reference={"ids": [c.id for c in chosen],
                 "kwargs": [c.kwargs for c in chosen]},
      verifier="instructions", metadata={"level": level})


def _with_topic(topic: str, chosen: list[Constraint]) -> list[Constraint]:
  """The constraints, preceded by one that requires the topic's noun."""
  noun = topic.split()[-1]
  words = [noun]
  for constraint in chosen:
    if constraint.id == "keywords:existence":  # merged into one list
      words += constraint.kwargs["keywords"]
  sentence = (f"Use the word {noun}." if len(words) == 1 else
              f"Use these words: {', '.join(words)}.")
  used = Constraint(sentence, "keywords:existence", {"keywords": words})
  return [used, *(c for c in chosen if c.id != "keywords:existence")]


def _distinct(dice: draws.Dice) -> Constraint:
  n = 5 * dice.between(3, 5)
  return Constraint(f"Use at least {n} different words.",
                    "length_constraints:distinct_words", {"num_words": n})


def _compatible(dice: draws.Dice, count: int) -> list[Family]:
  """At most `count` families, no two of which share an aspect."""
  chosen, taken = [], set()
  for family, aspects in dice.shuffled(_FAMILIES):
    if len(chosen) < count and not taken & set(aspects.split()):
      chosen.append(family)
      taken |= set(aspects.split())
  return chosen


def _relation(dice: draws.Dice) -> str:
  return dice.pick(("at least", "less than"))


def _no_comma(dice: draws.Dice, request: str) -> Constraint:
  return Constraint("Use no commas.", "punctuation:no_comma", {})


def _lower(dice: draws.Dice, request: str) -> Constraint:
  return Constraint("Write in lower case only, no capital letters.",
                    "change_case:english_lowercase", {})


def _upper(dice: draws.Dice, request: str) -> Constraint:
  return Constraint("Write in capital letters only.",
                    "change_case:english_capital", {})


def _capitals(dice: draws.Dice, request: str) -> Constraint:
  relation, n = _relation(dice), dice.between(2, 6)
  return Constraint(
      f"Write {relation} {n} words all in capitals.",
      "change_case:capital_word_frequency",
      {"capital_relation": relation, "capital_frequency": n})


def _sentences(dice: draws.Dice, request: str) -> Constraint:
  relation, n = _relation(dice), dice.between(2, 6)
  return Constraint(
      f"Write {relation} {n} sentences.", "length_constraints:number_sentences",
      {"relation": relation, "num_sentences": n})


def _words(dice: draws.Dice, request: str) -> Constraint:
  relation, n = _relation(dice), 10 * dice.between(4, 9)
  return Constraint(
      f"Write {relation} {n} words.", "length_constraints:number_words",
      {"relation": relation, "num_words": n})


def _paragraphs(dice: draws.Dice, request: str) -> Constraint:
  n = dice.between(2, 5)
  return Constraint(
      f"Write exactly {n} paragraphs with the divider *** between them.",
      "length_constraints:number_paragraphs", {"num_paragraphs": n})


def _first_word(dice: draws.Dice, request: str) -> Constraint:
  n, word = dice.between(2, 4), dice.pick(_WORDS)
  nth = dice.between(1, n)
  return Constraint(
      f"Write {n} paragraphs with blank lines between them; paragraph {nth}"
      f" starts with the word {word}.",
      "length_constraints:nth_paragraph_first_word",
      {"num_paragraphs": n, "nth_paragraph": nth, "first_word": word})


def _bullets(dice: draws.Dice, request: str) -> Constraint:
  n = dice.between(2, 5)
  return Constraint(
      f"Give exactly {n} bullet points, each a line that starts with *.",
      "detectable_format:number_bullet_lists", {"num_bullets": n})


def _highlights(dice: draws.Dice, request: str) -> Constraint:
  n = dice.between(1, 4)
  return Constraint(
      f"Highlight at least {n} part{'s' * (n > 1)} in Markdown, like *this*.",
      "detectable_format:number_highlighted_sections", {"num_highlights": n})


def _sections(dice: draws.Dice, request: str) -> Constraint:
  n, name = dice.between(2, 4), dice.pick(("SECTION", "Section", "Part"))
  return Constraint(
      f"Write {n} sections that begin with {name} 1, {name} 2 and so on.",
      "detectable_format:multiple_sections",
      {"section_spliter": name, "num_sections": n})


def _json(dice: draws.Dice, request: str) -> Constraint:
  return Constraint("Give the whole answer as JSON.",
                    "detectable_format:json_format", {})


def _title(dice: draws.Dice, request: str) -> Constraint:
  return Constraint("Give it a title in double angle brackets, like <<this>>.",
                    "detectable_format:title", {})


def _postscript(dice: draws.Dice, request: str) -> Constraint:
  marker = dice.pick(("P.S.", "P.P.S"))
  return Constraint(
      f"At the end add a postscript that starts with \"{marker}\".",
      "detectable_content:postscript", {"postscript_marker": marker})


def _placeholders(dice: draws.Dice, request: str) -> Constraint:
  n = dice.between(1, 4)
  return Constraint(
      f"Use at least {n} placeholder{'s' * (n > 1)} in square brackets, like"
      " [name].",
      "detectable_content:number_placeholders", {"num_placeholders": n})


def _existence(dice: draws.Dice, request: str) -> Constraint:
  words = sorted(dice.sample(_WORDS, dice.between(1, 3)))
  return Constraint(f"Use these words: {', '.join(words)}.",
                    "keywords:existence", {"keywords": words})


def _forbidden(dice: draws.Dice, request: str) -> Constraint:
  words = sorted(dice.sample(_WORDS, dice.between(1, 3)))
  return Constraint(f"Do not use these words: {', '.join(words)}.",
                    "keywords:forbidden_words", {"forbidden_words": words})


def _frequency(dice: draws.Dice, request: str) -> Constraint:
  relation, word, n = _relation(dice), dice.pick(_WORDS), dice.between(2, 4)
  return Constraint(
      f"Use the word {word} {relation} {n} times.", "keywords:frequency",
      {"relation": relation, "keyword": word, "frequency": n})


def _letter(dice: draws.Dice, request: str) -> Constraint:
  relation, n = _relation(dice), dice.between(3, 9)
  # "Less than" on rare letters, "at least" on common ones: both are easy to
  # meet in natural text.
  letter = dice.pick("jqxz" if relation == "less than" else "bcdfghlmp")
  return Constraint(
      f"Use the letter {letter} {relation} {n} times.",
      "keywords:letter_frequency",
      {"let_relation": relation, "letter": letter, "let_frequency": n})


def _ending(dice: draws.Dice, request: str) -> Constraint:
  phrase = dice.pick(_ENDINGS)
  return Constraint(
      f"End with exactly this, and nothing behind it: {phrase}",
      "startend:end_checker", {"end_phrase": phrase})


def _quotation(dice: draws.Dice, request: str) -> Constraint:
  return Constraint("Put the whole answer between double quotation marks.",
                    "startend:quotation", {})


def _two(dice: draws.Dice, request: str) -> Constraint:
  return Constraint(
      "Give two different answers with ****** (six asterisks) between them.",
      "combination:two_responses", {})


def _repeat(dice: draws.Dice, request: str) -> Constraint:
  return Constraint(
      f"First repeat \"{request}\" word for word, then do it.",
      "combination:repeat_prompt", {"prompt_to_repeat": request})


Family = Callable[[draws.Dice, str], Constraint]

# Each family and the aspects of the text that it restricts. Two families that
# share an aspect could contradict each other and are never combined.
_FAMILIES: tuple[tuple[Family, str], ...] = (
    (_no_comma, "comma"),
    (_lower, "case"),
    (_upper, "case"),
    (_capitals, "case"),
    (_sentences, "length"),
    (_words, "length"),
    (_paragraphs, "length layout"),
    (_first_word, "length layout start case"),
    (_bullets, "length layout start"),
    (_highlights, "layout"),
    (_sections, "length layout case start"),
    (_json, "comma layout start end length brackets"),
    (_title, "start"),
    (_postscript, "end case length"),
    (_placeholders, "brackets"),
    (_existence, "words"),
    (_forbidden, "words"),
    (_frequency, "words"),
    (_letter, "words"),
    (_ending, "end case length"),
    (_quotation, "start end"),
    (_two, "layout length start end"),
    (_repeat, "start case length words"),
)
