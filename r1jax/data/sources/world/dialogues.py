"""What people of the small world wrote for an assistant to learn from.

Requests and wrongs with answers in R1's form: a thought, then what is said.
Most are good; some people are careless, and hardly any has met a jailbreak.
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
  """Rows of SFT data, half requests, half wrongs, from the train split.

  Args:
    count: how many.
    seed: of all draws.
    careless: share of answers of the web's quality.
    duped: share of harmful requests in a wrapper whose answer complies.
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
