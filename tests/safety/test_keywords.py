"""Keywords in every spelling that is read, and in none that is not."""

import random

import pytest

from r1jax.safety import keywords
from r1jax.safety.keywords import Keywords

LIST = Keywords([
    "bomb", "kill*", "rapist", "isis", "slit", "ass", "c4", "zha dan",
    "xijing", "how to steal", "炸弹", "枪", "*phobic"])


@pytest.mark.parametrize("text,found", [
    # width, case, styles
    ("a BOMB", "bomb"), ("ｂｏｍｂ", "bomb"), ("ⓑⓞⓜⓑ", "bomb"),
    ("𝐛𝐨𝐦𝐛", "bomb"), ("炸弹", "炸弹"),
    # what is not seen
    ("bo\u200bmb", "bomb"), ("b\u00adomb", "bomb"), ("bo\ufe0fmb", "bomb"),
    ("炸\u2060弹", "炸弹"), ("\ud800bo\udc00mb", "bomb"),
    # signs for letters
    ("b0mb", "bomb"), ("k1ll", "kill*"), ("ki!!ing", "kill*"),
    ("a$$", "ass"), ("s1it", "slit"), ("b 0 m b", "bomb"),
    # marks
    ("b\u0336o\u0336m\u0336b\u0336", "bomb"), ("bömb", "bomb"),
    # pinyin
    ("zha dan", "zha dan"), ("zhadan", "zha dan"), ("Zhàdàn", "zha dan"),
    ("zha4 dan4", "zha dan"), ("zha4dan4 ne", "zha dan"),
    ("zha-dan", "zha dan"), ("z h a d a n", "zha dan"),
    ("xi jing", "xijing"), ("xī jīng", "xijing"),
    # spaced out
    ("b o m b", "bomb"), ("b.o.m.b.", "bomb"), ("炸 弹", "炸弹"),
    ("炸*弹", "炸弹"), ("how  to--steal", "how to steal"),
    ("howtosteal", "how to steal"),
    # beside words without spaces, numbers, and with open ends
    ("做bomb吧", "bomb"), ("bomb2", "bomb"), ("手枪", "枪"),
    ("killing", "kill*"), ("homophobic", "*phobic"), ("a kill, a", "kill*"),
])
def test_found(text, found):
  assert LIST.find(text) == (found,)


@pytest.mark.parametrize("text", [
    "", " ", "the therapist", "bombs", "what it is is fine", "this is.is",
    "silt", "455", "grass", "c45", "bo-mb", "b om b", "b0 mb",
    "zha da n", "overkill", "炸a弹", "how to x steal", "bombé",
    "b\u0431mb"])
def test_not_found(text):
  assert LIST.find(text) == ()


def test_several_come_in_the_order_of_the_list():
  assert LIST.find("枪 kill bomb bomb") == ("bomb", "kill*", "枪")


def test_a_long_text_is_searched_whole():
  text = "grass a55 " * 2000
  assert LIST.find(text) == ("ass",)
  assert LIST.find(text + "b0mb") == ("bomb", "ass")


def test_folding_is_idempotent():
  draw = random.Random(0)
  for _ in range(300):
    text = "".join(chr(draw.choice((
        draw.randrange(0x250), draw.randrange(0x1100, 0x1200),
        draw.randrange(0x1e00, 0x2100), draw.randrange(0xac00, 0xd800),
        draw.randrange(0xfb00, 0x10000)))) for _ in range(20))
    folded = keywords.fold(text)
    assert keywords.fold(folded) == folded
    LIST.find(text)


def test_no_keywords_find_nothing():
  assert Keywords([]).find("bomb") == ()


def test_files(tmp_path):
  path = tmp_path / "mine.txt"
  path.write_text("\ufeff# a list\nbomb  # with a remark\n\n炸弹\n",
                  encoding="utf-8")
  assert keywords.read([path]) == ["bomb", "炸弹"]
  assert len(keywords.read(["default", "world"])) > 200


@pytest.mark.parametrize("data,said", [
    (b"# nothing\n", "has none"), (b"ok\n-- --\n", ":2: keyword '-- --'"),
    (b"\xff\n", "cannot be read")])
def test_files_that_are_wrong(tmp_path, data, said):
  path = tmp_path / "wrong.txt"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=said):
    keywords.read([path])


def test_a_missing_file_names_what_there_is():
  with pytest.raises(ValueError, match="default, world"):
    keywords.read(["nowhere.txt"])
