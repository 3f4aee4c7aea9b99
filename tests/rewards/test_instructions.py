"""Verifiable instructions: what follows each of the 25 types and what not."""

import random
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import instructions, response

LONG = 200_000  # characters of a hostile answer


def judge(ids, kwargs, answer):
  prompt = Prompt(id=3, domain="general", source="test", messages=ask("?"),
                  reference={"ids": ids, "kwargs": kwargs},
                  verifier="instructions")
  return instructions.verify(prompt, response.split("", f"</think>{answer}"))


FOX = "the quick brown fox jumps over the lazy dog near the river"
PROMPT = "Write a line about tea."

CASES = [
    # (instruction, arguments, answers that follow it, answers that do not)
    ("change_case:capital_word_frequency",
     {"capital_frequency": 2, "capital_relation": "at least"},
     ["NASA and ESA fly.", "I like TV"], ["Nasa and Esa fly.", "NASA flies"]),
    ("change_case:capital_word_frequency",
     {"capital_frequency": 2, "capital_relation": "less than"},
     ["NASA flies", "none"], ["NASA and ESA fly", "A B C"]),
    ("change_case:english_capital", {}, [FOX.upper(), "HELLO!"],
     [FOX, "THE QUICK BROWN fOX JUMPS OVER THE DOG", "123",
      "DER SCHNELLE BRAUNE FUCHS SPRINGT ÜBER DEN FAULEN HUND AM FLUSS",
      "ПРИВЕТ"]),
    ("change_case:english_lowercase", {}, [FOX, "hello!"],
     [FOX.upper(), "The quick fox", "...", "le renard brun saute par-dessus le "
      "chien paresseux près de la rivière"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": PROMPT},
     [f"{PROMPT}\n\nTea is hot.", f"{PROMPT.upper()} Tea!"],
     ["Tea is hot.", PROMPT, f"Sure. {PROMPT} Tea is hot.",
      "Write a line about coffee. Tea is hot."]),
    ("combination:two_responses", {}, ["One.\n******\nTwo.", "a ****** b"],
     ["One.", "One.\n******\nOne.", "One\n******", "a******b******c",
      "a\n*****\nb", "a *** b"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2},
     ["[name] lives in [city]", "[a][b][c]"],
     ["[name]", "[] []", "[ ] [x]", "(name) (city)", "[a](http://x) [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."},
     ["Dear all\n\nP.S. I forgot", "Hi\n**P.S.** more", "Hi\nP.S: more"],
     ["Dear all", "Dear P.S. I forgot", "Hi\nP.S.", "Hi\nP.P.S. more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"},
     ["Hi\nP.P.S more", "Hi\nP.P.S. more"], ["Hi\nP.S. more", "Hi P.P.S"]),
    ("detectable_format:constrained_response", {},
     ["My answer is yes.", "Well: My answer is maybe."],
     ["yes", "My answer is no", "My answer is yes. My answer is no."]),
    ("detectable_format:json_format", {},
     ['{"a": [1, 2]}', "```json\n[1]\n```", "```\n{}\n```"],
     ["{a: 1}", "7", "Here: {}", '{"a": 1', '"text"', "[" * 100_000]),
    ("detectable_format:multiple_sections",
     {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb", "## SECTION 1: x\n**SECTION 2**"],
     ["SECTION 1\na", "Section 1\nSection 2", "SECTION 1\nSECTION 1",
      "see SECTION 1 and SECTION 2", "SECTION 1\nSECTION 2\nSECTION 3"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     ["* a\n* b", "Two:\n - a\n - b\nend"],
     ["* a", "* a\n* b\n* c", "**a**\n**b**", "---\n---", "a * b * c"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["*one* and *two*", "**one** *two* *three*", "* *a*\n* **b**"],
     ["*one*", "* one\n* two", "** **", "*one\ntwo* *three*", "2 * 3 * 4"]),
    ("detectable_format:title", {}, ["<<Tea>>\nText", "Text <<My title>>"],
     ["<Tea>", "<<>>", "<< >>", "<<Tea\n>>", "Title: Tea"]),
    ("keywords:existence", {"keywords": ["ink", "tea pot"]},
     ["Ink, a Tea Pot.", "(ink) 'tea pot'"],
     ["think of a tea pot", "ink", "ink, tea, pot", "inks and tea pots"]),
    ("keywords:existence", {"keywords": ["茶"]}, ["我喜欢茶叶", "茶"],
     ["咖啡", "tea"]),
    ("keywords:forbidden_words", {"forbidden_words": ["name", "rename"]},
     ["We named it", "nothing"], ["the name", "Rename it", "NAME"]),
    ("keywords:frequency",
     {"keyword": "war", "frequency": 2, "relation": "at least"},
     ["War and war", "war, war; war"], ["war", "warm wars toward"]),
    ("keywords:frequency",
     {"keyword": "war", "frequency": 2, "relation": "less than"},
     ["war", "peace"], ["war war", "War. WAR!"]),
    ("keywords:letter_frequency",
     {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
     ["Quick queen", "qqq"], ["quick", "none"]),
    ("keywords:letter_frequency",
     {"letter": "!", "let_frequency": 1, "let_relation": "less than"},
     ["calm", "?"], ["oh!", "!!"]),
    ("language:response_language", {"language": "de"},
     ["Der schnelle Fuchs springt über den Hund.", "Ich habe keine Zeit heute"],
     [FOX, "Это по-русски", "12", "Le renard saute par-dessus le chien"]),
    ("language:response_language", {"language": "hi"},
     ["मेरा नाम राम है और मैं दिल्ली में रहता हूँ", "यह एक किताब है और वह मेरी है"],
     ["माझे नाव राम आहे आणि मी पुण्यात राहतो", "Mera naam Ram hai", FOX]),
    ("language:response_language", {"language": "ru"},
     ["Это ответ на русском языке", "Я живу в Москве и люблю чай"],
     ["Това е отговор на български език", "Eto otvet", f"Это {FOX}"]),
    ("language:response_language", {"language": "ja"},
     ["これは日本語の答えです", "東京に住んでいます"], ["这是中文的回答", FOX]),
    ("language:response_language", {"language": "th"},
     ["นี่คือคำตอบภาษาไทย", "ผมชอบดื่มชาร้อนทุกวัน OK"], [FOX, "这是中文"]),
    ("length_constraints:distinct_words", {"num_words": 3},
     ["one two three", "Tea, tea; or coffee", "मेरा नाम राम है"],
     ["one two", "Tea tea TEA tea", "a b c d", "one two 3 4", "x", "茶茶茶"]),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "tea"},
     ["One.\n\nTea is hot.", "a\n \n**Tea**, b"],
     ["Tea.\n\nOne.", "One.\n\nTeapot", "One.\n\nTea\n\nx", "One. Tea"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["One.\n***\nTwo.", "One.\n\n***\n\nTwo.\n***"],
     ["One.\n\nTwo.", "a\n***\nb\n***\nc", "a\n***\n***\nb", "a *** b"]),
    ("length_constraints:number_sentences",
     {"num_sentences": 3, "relation": "at least"},
     ["One. Two! Three?", "一。二！三？", "He said \"no.\" Then. \"Yes!\""],
     ["One. Two.", "Dr. A. Smith vs. Mr. Jones", "One... two", "1. 2. 3.",
      "...!!!???", "Pi is 3.14159 and e is 2.71828"]),
    ("length_constraints:number_sentences",
     {"num_sentences": 2, "relation": "less than"},
     ["One.", "Dr. Who came", "1. only this"], ["One. Two", "One! Two!"]),
    ("length_constraints:number_words",
     {"num_words": 4, "relation": "at least"},
     ["one two three four", "我喜欢茶"], ["one two three", "a-b-c don't, x",
                                     "... - ? !"]),
    ("length_constraints:number_words",
     {"num_words": 3, "relation": "less than"},
     ["well-known tea", "one"], ["one two three", "喜欢茶"]),
    ("punctuation:no_comma", {}, ["No commas here", "a; b"],
     ["a, b", "你好，世界", "،"]),
    ("startend:end_checker", {"end_phrase": "Peace!"},
     ["Go. Peace!", "Go.\n**peace!**", '"Go. Peace!"'],
     ["Peace! Go.", "Go. Peace", "Go"]),
    ("startend:quotation", {}, ['"All of it."', "“All of it.”"],
     ['"Half" of it', "'x'", '"', '""', '" "']),
]


@pytest.mark.parametrize("name,kwargs,follow,break_", CASES)
def test_instruction(name, kwargs, follow, break_):
  assert len(follow) >= 2 and len(break_) >= 2
  for answer in follow:
    score = judge([name], [kwargs], answer)
    assert (score.value, score.reason) == (1, "correct"), answer
  for answer in break_:
    score = judge([name], [kwargs], answer)
    assert (score.value, score.reason) == (0, name), answer
  for answer in ("", " \n", "<think> open thought"):
    assert judge([name], [kwargs], answer).reason == "no answer"


def test_every_type_has_cases():
  assert {case[0] for case in CASES} == {*instructions.CHECKS}
  assert len(instructions.CHECKS) == 26


def test_all_must_hold_and_the_first_that_does_not_is_named():
  ids = ["punctuation:no_comma", "detectable_format:title",
         "change_case:english_lowercase"]
  kwargs = [{}, {}, {"unused": None}]
  score = judge(ids, kwargs, "<<a>> one, two")
  assert (score.value, score.reason) == (0, ids[0])
  assert score.parts["followed"] == pytest.approx(2 / 3)
  assert judge(ids, kwargs, "One two").reason == ids[1]
  assert judge(ids, kwargs, "<<a>> one two").value == 1


def test_only_the_answer_counts():
  prompt = Prompt(id=0, domain="general", source="test", messages=ask("?"),
                  reference={"ids": ["detectable_format:title"],
                             "kwargs": [{}]}, verifier="instructions")
  for text, value in (("<think><<T>></think>x", 0), ("<think><<T>>", 0),
                      ("<think>x</think><<T>>", 1)):
    assert instructions.verify(prompt, response.split("", text)).value == value


@pytest.mark.parametrize("text,count", [
    ("We met at 3 p.m. Then we left.", 2), ("It was 3 p.m. on Monday.", 1),
    ("It closes at 9 a.m. He knows.", 2), ("Cats, dogs, etc. They run.", 2),
    ("Cats, dogs, etc. and birds run.", 1), ("This is plan B. We go.", 2),
    ("I take vitamin C. It helps.", 2), ("She got an A. Everyone clapped.", 2),
    ("So do I. Bob left.", 2), ("By J. Smith.", 1), ("J. R. Smith left.", 1),
    ("Dr. A. Smith met Mr. B. Jones.", 1), ("See No. 5 below.", 1),
    ("He said no. 5 men left.", 1), ("I said no. We left.", 2),
    ("E.g. this one.", 1), ("We use it, i.e. The Times.", 1),
    ("The U.S. Government pays.", 1), ("He is in the U.S. She is not.", 2),
    ("Acme Inc. She works there.", 2), ("Acme Inc. of Ohio.", 1),
    ("Read this (p. 5) now.", 1), ("It ends with x. Then y.", 2),
    ("One... Two.", 2), ("Is it? Yes!", 2), ("No full stop", 1), ("", 0),
    ("Pi is 3.14. Yes.", 2), ("他来了。你呢？", 2)])
def test_sentences(text, count):
  assert instructions.sentences(text) == count


@pytest.mark.parametrize("text,count", [
    ("हिन्दी में लिखो", 3), ("cafe\u0301 na\u0308ive", 2),
    ("नमस्ते दुनिया", 2),
    ("வணக்கம் உலகம்", 2), ("ภาษาไทย", 7), ("น้ำ", 2), ("한국어 문장", 2),
    ("מִלָּה אַחַת", 2),
    ("العَرَبِيَّة لُغَة", 2), ("日本語", 3), ("Ελληνικά", 1),
    ("don't well-known", 2), ("3 cats_dogs", 2)])
def test_words(text, count):
  assert len(instructions.words(text)) == count


def test_accents_may_be_written_either_way():
  for keyword, text in (("café", "A cafe\u0301."), ("cafe\u0301", "A café.")):
    assert judge(["keywords:existence"], [{"keywords": [keyword]}], text).value
  for keyword, text in (("cafe", "A cafe\u0301."), ("राम", "रामा")):
    assert not judge(
        ["keywords:existence"], [{"keywords": [keyword]}], text).value
  assert judge(["keywords:existence"], [{"keywords": ["राम"]}], "राम, है").value


@pytest.mark.parametrize("ids,kwargs,message", [
    (["no:such"], [{}], "'no:such'.*punctuation:no_comma"),
    (["punctuation:no_comma"], [{"x": 1}], "'x': 1"),
    (["punctuation:no_comma"], [], "1 instructions, 0 arguments"),
    ([], [], "0 instructions"),
    (["keywords:existence"], [{"keywords": None}], "'keywords': 'list'"),
    (["keywords:existence"], [{"keywords": "tea"}], "'keywords': 'tea'"),
    (["language:response_language"], [{"language": "xx"}], "'xx'"),
    (["length_constraints:number_words"],
     [{"num_words": 3, "relation": "about"}], "about.*less than")])
def test_bad_references_are_named(ids, kwargs, message):
  with pytest.raises(ValueError, match=message):
    judge(ids, kwargs, "x")


@pytest.mark.parametrize("piece", [
    "[", "[a", "<<", "<", "*", "* a", "**a", "* *", ".", "...x", "P.S.", "\n",
    " ", "\n ", "SECTION 1 ", "a-", "a'", "茶", "war", "***\n", "******", "{",
    "[1,", "1. ", "Dr.", '"', "\ud83d", "ʼ"])
def test_long_answers_take_no_time(piece):
  ids = [case[0] for case in CASES]
  kwargs = [case[1] for case in CASES]
  judge(ids, kwargs, "warm up")
  for answer in (piece * (LONG // len(piece)), piece + "a" * LONG,
                 piece + " " * LONG + "x"):
    began = time.process_time()
    assert 0 <= judge(ids, kwargs, answer).value < 1
    assert time.process_time() - began < 5


def test_junk_raises_nothing():
  generator = random.Random(1)
  pieces = ["<<", ">>", "[", "]", "*", "***", "\n", "\n\n", " ", ".", "!",
            "P.S.", "SECTION 1", '"', "{", "}", ":", "a", "Ä", "茶", "\x00",
            "\ud83d", "My answer is yes.", ",", "```", "1.", "-"]
  for _ in range(1500):
    case = generator.choice(CASES)
    text = "".join(generator.choices(pieces, k=generator.randrange(20)))
    assert judge([case[0]], [case[1]], text).value in (0, 1), text


# (answer, share followed strictly, share followed loosely): "no comma" and
# "ends with The end." of each.
LOOSE = [
    ("Sure, here it is:\nAll is well. The end.", 0.5, 1.0),
    ("All is well. The end.\nDo you like it?", 0.5, 1.0),
    ("Well, so:\nAll is well. The end.\nYes?", 0.0, 1.0),
    ("All is well. **The end.**", 1.0, 1.0),
    ("All, in all, is well.", 0.0, 0.0),
    ("", 0.0, 0.0),
]


@pytest.mark.parametrize("answer,strict,loose", LOOSE)
def test_the_loose_reading(answer, strict, loose):
  prompt = Prompt(
      id=3, domain="general", source="test", messages=ask("?"),
      reference={"ids": ["punctuation:no_comma", "startend:end_checker"],
                 "kwargs": [{}, {"end_phrase": "The end."}]},
      verifier="instructions")
  said = response.split("", f"</think>{answer}")
  got = instructions.strict_and_loose(prompt, said)
  assert got.parts == {"followed": strict, "loose": loose, "instructions": 2.0}
  alone = instructions.verify(prompt, said)
  assert (got.value, got.reason) == (alone.value, alone.reason)


def test_eight_readings():
  assert instructions.readings("a\n*b*\nc") == [
      "a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
  assert instructions.readings("*") == ["*"]
