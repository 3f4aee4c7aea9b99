"""Ciphers and patterns with one short answer."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

SPLITS = {"train": 2000, "validation": 128, "test": 128, "hard": 128}

_LETTERS = string.ascii_lowercase
_WORDS = tuple("""
apple arrow autumn bacon badge beach bench berry bird black board boat book
bottle bread brick bridge brown brush bucket butter cabin cable camel candle
canyon carpet castle chain chair chalk cheese cherry circle cliff clock cloud
coast coffee copper cotton crane cream crown dance desert dinner doctor dream
eagle earth engine fabric farm father feather field finger flame floor flour
flower forest fork fossil frame friend frost fruit garden ghost giant glass
globe glove grape grass green guitar hammer harbor heart honey horse hotel house
island jacket jelly juice jungle kettle knife ladder lake lamp leaf lemon letter
light lion magnet maple market meadow melon metal mirror money month moon
morning mother motor mouse museum music needle night north number ocean olive
onion orange paint palace panda paper parrot peach pearl pencil pepper piano
pillow pilot planet plant plate pocket potato prince queen rabbit radio rain
ribbon river robot rocket salad sand school sheep ship silver sister smoke snake
spice spoon spring square stone storm story street sugar summer sunset table
temple tiger toast tower train travel tunnel valley violin wagon water whale
wheel window winter wolf wood yellow zebra
""".split())


def prompts(split: str) -> Iterator[Prompt]:
  """One cipher or pattern a question; in "hard" two rules in succession.

  No question is in two splits. metadata: family (the rule's name).

  Raises:
    ValueError: no such split.
  """
  return draws.distinct("ciphers", SPLITS, split, _prompt)


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  family = _two_rules if split == "hard" else dice.pick(_FAMILIES)
  question, answer = family(dice)
  if split != "hard" and draws.share(question) != split:
    return None
  return Prompt(
      id=index, domain="logic", source="ciphers", messages=ask(question),
      reference=answer, verifier="exact",
      metadata={"family": family.__name__[1:]})


def shift(text: str, by: int) -> str:
  """Caesar cipher: moves lower-case letters `by` places on, a after z."""
  return "".join(
      _LETTERS[(_LETTERS.index(c) + by) % 26] if c in _LETTERS else c
      for c in text)


def atbash(text: str) -> str:
  """Atbash cipher: swaps a with z, b with y, and so on."""
  return text.translate(str.maketrans(_LETTERS, _LETTERS[::-1]))


def fence(text: str) -> str:
  """Rail fence cipher, two rails: letters 1, 3, 5, ..., then 2, 4, 6, ..."""
  return text[::2] + text[1::2]


def vigenere(text: str, key: str) -> str:
  """Vigenere cipher: shifts each letter by its key letter (a = 0).

  The key is repeated; both are lower case.
  """
  return "".join(
      shift(c, _LETTERS.index(key[i % len(key)])) for i, c in enumerate(text))


def _encode_caesar(dice: draws.Dice) -> tuple[str, str]:
  word, by = dice.pick(_WORDS), dice.between(1, 12)
  return (f"Move each letter of \"{word}\" {by} on in the alphabet (after z"
          " comes a). What do you get?", shift(word, by))


def _decode_caesar(dice: draws.Dice) -> tuple[str, str]:
  word, by = dice.pick(_WORDS), dice.between(1, 12)
  return (f"A word was encoded by moving each letter {by} on in the alphabet:"
          f" \"{shift(word, by)}\". What is the word?", word)


def _reversed(dice: draws.Dice) -> tuple[str, str]:
  word = dice.pick(_WORDS)
  return f"Write \"{word}\" backwards.", word[::-1]


def _reversed_words(dice: draws.Dice) -> tuple[str, str]:
  words = dice.sample(_WORDS, 3)
  return (f"Write these words in reverse order: {' '.join(words)}",
          " ".join(reversed(words)))


def _atbash(dice: draws.Dice) -> tuple[str, str]:
  word = dice.pick(_WORDS)
  return (f"In Atbash a becomes z, b becomes y, and so on. What does"
          f" \"{atbash(word)}\" mean?", word)


def _positions(dice: draws.Dice) -> tuple[str, str]:
  word = dice.pick(_WORDS)
  code = "-".join(str(_LETTERS.index(c) + 1) for c in word)
  return f"With a = 1, b = 2, ..., z = 26: which word is {code}?", word


def _fence(dice: draws.Dice) -> tuple[str, str]:
  word = "".join(dice.sample(_WORDS, 2))
  return (f"Write the 1st, 3rd, 5th ... letters of \"{word}\", then the 2nd,"
          " 4th, 6th ... What do you get?", fence(word))


def _vigenere(dice: draws.Dice) -> tuple[str, str]:
  word, key = dice.pick(_WORDS), "".join(dice.sample("bcdef", 2))
  return (f"Encode \"{word}\" with the Vigenere key \"{key}\" (a moves a"
          " letter by 0, b by 1).", vigenere(word, key))


def _arithmetic(dice: draws.Dice) -> tuple[str, str]:
  start, step = dice.between(1, 60), dice.between(2, 25)
  return _continued([start + step * i for i in range(5)])


def _falling(dice: draws.Dice) -> tuple[str, str]:
  end, step = dice.between(0, 40), dice.between(2, 25)
  return _continued([end + step * i for i in range(4, -1, -1)])


def _geometric(dice: draws.Dice) -> tuple[str, str]:
  start, ratio = dice.between(1, 40), dice.between(2, 4)
  return _continued([start * ratio**i for i in range(5)])


def _fibonacci(dice: draws.Dice) -> tuple[str, str]:
  terms = [dice.between(1, 12), dice.between(1, 12)]
  while len(terms) < 6:
    terms.append(terms[-2] + terms[-1])
  return _continued(terms, ", each after the second the sum of the two before")


def _growing(dice: draws.Dice) -> tuple[str, str]:
  start, step, more = (
      dice.between(1, 30), dice.between(1, 9), dice.between(1, 6))
  terms = [start]
  for i in range(5):
    terms.append(terms[-1] + step + more * i)
  return _continued(terms, ", the differences growing evenly")


def _letters(dice: draws.Dice) -> tuple[str, str]:
  start, step = dice.below(26), dice.between(1, 9)
  terms = [_LETTERS[(start + step * i) % 26] for i in range(5)]
  return (f"Which letter comes next (after z comes a): {' '.join(terms[:4])}?",
          terms[4])


def _cycle(dice: draws.Dice) -> tuple[str, str]:
  block = dice.sample(_LETTERS[:12], dice.between(2, 4))
  ask_at = dice.between(10, 40)
  shown = " ".join(block * 2)
  return (f"The pattern {shown} ... goes on. What is its item number"
          f" {ask_at}, counted from 1?", block[(ask_at - 1) % len(block)])


def _continued(terms: list[int], hint: str = "") -> tuple[str, str]:
  shown = ", ".join(map(str, terms[:-1]))
  return f"Which number comes next: {shown}{hint}?", str(terms[-1])


def _two_rules(dice: draws.Dice) -> tuple[str, str]:
  by = dice.between(1, 12)
  rules = (
      (f"move each letter {by} on in the alphabet (after z comes a)",
       lambda text: shift(text, by)),
      ("write it backwards", lambda text: text[::-1]),
      ("swap a with z, b with y, and so on", atbash),
      ("write its 1st, 3rd, 5th ... letters, then its 2nd, 4th, 6th ...",
       fence),
  )
  word = dice.pick(_WORDS)
  (first, apply_first), (second, apply_second) = dice.sample(rules, 2)
  return (f"Take \"{word}\": {first}; then {second}. What do you get?",
          apply_second(apply_first(word)))


Family = Callable[[draws.Dice], tuple[str, str]]

_FAMILIES: tuple[Family, ...] = (
    _encode_caesar, _decode_caesar, _reversed, _reversed_words, _atbash,
    _positions, _fence, _vigenere, _arithmetic, _falling, _geometric,
    _fibonacci, _growing, _letters, _cycle,
)
