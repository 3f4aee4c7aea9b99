from __future__ import annotations

import sys
import time
import types

import pytest

from r1jax.rewards import language, response
from tests import shared

FRENCH = "Je pense que la réponse est fausse parce que le nombre est trop grand"
ENGLISH = "I think that the answer is wrong because the number is too large"
GERMAN = "Ich glaube dass die Antwort falsch ist weil die Zahl viel zu groß ist"


def judge(code, thinking, rule=language.consistency):
  prompt = types.SimpleNamespace(language=code)
  return rule(prompt, response.split("<think>", f"{thinking}</think> 文 word"))


@pytest.mark.parametrize("code,thinking,value,words", [
    ("en", "The sum is right", 1.0, 4),
    ("en", "The sum 是对的 right", 0.5, 6),
    ("zh", "两个数的和是 42", 1.0, 6),
    ("zh", "The sum is right", 0.0, 4),
    ("zh", "设 x 为苹果的个数,n = 3", 1.0, 7),
    ("zh", "so 我们", 2 / 3, 3),
    ("ja", "答えは三です", 1.0, 6),
    ("zh", "答えは三です", 1 / 3, 6),
    ("ko", "정답은 三 입니다", 1.0, 7),
    ("ru", "Ответ: двадцать", 1.0, 2),
    ("el", "Η απάντηση είναι σωστή", 1.0, 3),
    ("sr", "Одговор je тачан", 1.0, 3),
    ("de", "Das ist richtig", 1.0, 3),
    # Mathematics, code and tags are no language.
    ("zh", r"由 $x = \text{speed}$ 可知", 1.0, 3),
    ("zh", r"由 \(speed\) 和 \[a \\ b \text{time}\] 可知", 1.0, 4),
    ("zh", "由 $$speed\n+ time$$ 可知", 1.0, 3),
    ("zh", r"由 \frac{1}{2} \times \begin{cases} 3 \end{cases} 可知", 1.0, 3),
    ("zh", r"\operatorname{lcm} 是 \mathrm{cm}", 1.0, 1),
    ("zh", "代码 `print(value)` 和\n```\nfor item in list:\n```\n好", 1.0, 4),
    ("zh", "代码\n```python\nwhile True", 1.0, 2),
    ("zh", "<b>好</b> <br/> <tool_call>", 1.0, 1),
    # What only looks like them is language.
    ("zh", "\\$5 and \\$6 好", 0.5, 2),
    ("zh", "costs $5\nand pays $6", 0.0, 3),
    ("zh", r"we open \( here", 0.0, 3),
    ("zh", "3 <fish and fish> 2", 0.0, 3),
    ("zh", r"\text{the sum is}", 0.0, 3),
    # Silence is not consistent.
    ("en", "", 0.0, 0),
    ("en", "12 + 3 = 15", 0.0, 0),
    ("en", "```python\nprint(1)\n```", 0.0, 0),
])
def test_consistency(code, thinking, value, words):
  score = judge(code, thinking)
  assert score.value == pytest.approx(value)
  assert score.parts == {"words": words}
  assert score.valid and score.answer is None
  assert score.reason == (
      "no words" if not words else "consistent" if value == 1 else "mixed")


def test_only_the_thought_counts():
  prompt = types.SimpleNamespace(language="en")
  for text, value in [("<think>good words</think>坏字", 1), ("good words", 0),
                      ("<think>坏字</think> good words", 0),
                      ("<think>good words", 1)]:
    assert language.consistency(prompt, response.split("", text)).value == value


def test_every_language_has_scripts_that_exist():
  assert set(shared_languages()) <= set(language.scripts.LANGUAGES)
  for code, names in language.scripts.LANGUAGES.items():
    assert len(code) == 2 and set(names) <= set(language.scripts.SCRIPTS)


def shared_languages():
  """Those of MGSM and MultiJail."""
  return "bn de en es fr ja ru sw te th zh it vi ar ko jv".split()


@pytest.mark.parametrize("rule", [
    language.consistency, language.consistency_detected])
@pytest.mark.parametrize("code", ["", "xx", "EN", "zh-cn"])
def test_unknown_languages_are_named(rule, code):
  with pytest.raises(ValueError, match=f"language={code!r} .* zh"):
    judge(code, "a b", rule)


def test_real_questions_are_in_their_language():
  folder = shared.folder("mgsm")
  for path in sorted(folder.rglob("mgsm_*.tsv")):
    code = path.stem.removeprefix("mgsm_")
    for line in path.read_text().splitlines()[:100]:
      question = line.split("\t")[0]
      # Names such as "SWAPBOOK" and units stay in Latin letters.
      assert judge(code, question).value > 0.5, (code, question)
      wrong = "en" if language.scripts.LANGUAGES[code] != ("Latin",) else "zh"
      assert judge(wrong, question).value < 0.5, (wrong, question)


@pytest.mark.parametrize("piece", [
    "```", "`", "$", "$$", "\\(", "\\)", "\\[", "\\begin{", "\\", "<", "<a",
    "</think>", "` `` ", "$\n", "\\( \\[", "word ", "字"])
def test_large_texts_take_no_time(piece):
  thought = response.Response("", piece * (200_000 // len(piece)), "", False)
  start = time.perf_counter()
  score = language.consistency(types.SimpleNamespace(language="en"), thought)
  assert time.perf_counter() - start < 2
  assert 0 <= score.value <= 1


@pytest.mark.parametrize("code,thinking,low,high", [
    ("en", ENGLISH, 0.99, 1),
    ("fr", FRENCH, 0.99, 1),
    ("fr", ENGLISH, 0, 0.01),
    ("en", FRENCH, 0, 0.01),
    ("en", f"{ENGLISH}. {GERMAN}.", 0.3, 0.7),
    ("de", f"{ENGLISH}. {GERMAN}.", 0.3, 0.7),
    ("zh", "让我们再检查一遍这个答案是不是正确", 0.99, 1),
    # The detector alone would call all of this English.
    ("en", f"{ENGLISH} 然后 {ENGLISH}", 0.9, 0.97),
    ("sw", "Nafikiri kwamba jibu si sahihi kwa sababu nambari", 0.9, 1),
    ("en", "12", 0, 0),
])
def test_detected(code, thinking, low, high):
  pytest.importorskip("lingua", reason="needs lingua-language-detector")
  score = judge(code, thinking, language.consistency_detected)
  assert low <= score.value <= high
  assert score.parts == judge(code, thinking).parts


def test_detector_does_not_know_every_language():
  pytest.importorskip("lingua", reason="needs lingua-language-detector")
  with pytest.raises(ValueError, match="'jv' is not one that the detector"):
    judge("jv", "iki tembung", language.consistency_detected)


def test_missing_detector_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "lingua", None)
  language._detector.cache_clear()
  with pytest.raises(ImportError, match="lingua-language-detector"):
    judge("en", ENGLISH, language.consistency_detected)


def test_money_is_no_mathematics():
  assert judge("en", "It costs $5 而他付了六元 or $6").value < 0.5
  assert judge("en", "It costs $5 or $6 in all").parts["words"] == 5
  assert judge("zh", "因为 $x + y = abc$ 成立").value == 1.0
