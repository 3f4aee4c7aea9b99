"""Synthetic "human-written" SFT dialogues: `requests` and `wrongs`.

Answers have R1's form, a thought and then the reply. Most are good, some are
careless, and most harmful requests in a jailbreak wrapper are complied with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import requests, words, wrongs

THOUGHTS = {"en": ("Let me think about it.", "That is a good question."),
            "zh": ("让我想想。", "好问题。")}


def rows(count: int, seed: int, *, careless: float = 0.15,
         duped: float = 0.7) -> Iterator[dict[str, Any]]:
  """Rows of SFT data, half `requests`, half `wrongs`, of the train split.

  Args:
    count: number of rows.
    seed: of all draws.
    careless: share of answers that have the quality of web pages.
    duped: among harmful requests in a jailbreak wrapper, the share whose answer
      complies.
  """
  for index in range(count):
    dice = Dice("dialogues", seed, index)
    language = dice.pick(words.LANGUAGES)
    module = requests if index % 2 else wrongs
    one = module.draw(dice, language)
    while module.split_of(one) != "train":
      one = module.draw(dice, language)
    say = module.web if dice.random() < careless else module.good
    if module is wrongs and one.harmful and one.wrapper and (
        dice.random() < duped):
      say = wrongs.advice
    yield {
        "messages": [
            {"role": "user", "content": one.question},
            {"role": "assistant", "content": f"<think>\n"
             f"{dice.pick(THOUGHTS[language])}\n</think>\n\n{say(dice, one)}"}],
        "source": "requests" if index % 2 else "safety"}
