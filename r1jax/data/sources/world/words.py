"""The words of the synthetic data, in English and Chinese."""

from __future__ import annotations

from typing import NamedTuple

LANGUAGES = ("en", "zh")


class Word(NamedTuple):
  """A word or phrase in both languages."""

  en: str
  zh: str

  def of(self, language: str) -> str:
    """The word in a language of `LANGUAGES`."""
    return self.en if language == "en" else self.zh


NAMES = tuple(Word(*pair) for pair in (
    ("Ana", "小安"), ("Ben", "小本"), ("Cleo", "小云"), ("Dan", "小丹"),
    ("Eva", "小花"), ("Finn", "小风"), ("Gita", "小红"), ("Hugo", "小虎"),
    ("Ines", "小雪"), ("Jon", "小山"), ("Kim", "小明"), ("Leo", "小海")))
GREETINGS = tuple(Word(*pair) for pair in (
    ("hello", "你好"), ("good night", "晚安"), ("thank you", "谢谢"),
    ("goodbye", "再见")))
FRUITS = tuple(Word(*pair) for pair in (
    ("pear", "梨"), ("plum", "李子"), ("apple", "苹果"), ("melon", "瓜"),
    ("lemon", "柠檬")))
ANIMALS = tuple(Word(*pair) for pair in (
    ("cat", "猫"), ("dog", "狗"), ("cow", "牛"), ("bird", "鸟"),
    ("horse", "马")))
COLOURS = tuple(Word(*pair) for pair in (
    ("red", "红色"), ("blue", "蓝色"), ("green", "绿色"), ("white", "白色"),
    ("black", "黑色")))
THINGS = tuple(Word(*pair) for pair in (
    ("coin", "硬币"), ("book", "书"), ("stone", "石头"), ("egg", "鸡蛋"),
    ("pen", "笔")))
# Group -> its members, for requests that ask for a list.
GROUPS = {
    Word("fruits", "水果"): FRUITS, Word("animals", "动物"): ANIMALS,
    Word("colours", "颜色"): COLOURS, Word("things", "东西"): THINGS}
NOUNS = FRUITS + ANIMALS + THINGS
COUNTS = {2: Word("two", "两"), 3: Word("three", "三"), 4: Word("four", "四")}
