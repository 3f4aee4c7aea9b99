"""Instruction following: IFEval's 25 types of instructions, and one of ours.

The types are those of "Instruction-Following Evaluation for Large Language
Models" (arXiv:2311.07911); each is checked strictly on the answer. The
additional one is `length_constraints:distinct_words`: at least n different
words of two letters or more.

Departures, to close ways around an instruction: an empty answer follows none.
Keywords are whole words. Words joined by an apostrophe or a hyphen are one
word, and so are each Chinese character, and each Thai, Lao, Khmer, Burmese or
Tibetan letter with its signs. Accents are normalised (NFC). Sentences end at
. ! ? and their Chinese forms, without a trained splitter. Sections must be
numbered 1 to n. Paragraph dividers, section markers, postscripts and bullets
must begin a line. JSON must be an object or a list. Exactly one of the fixed
answers ("My answer is yes.") must be given. A repeated request must be followed
by further words. Commas of all scripts count as commas.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from r1jax.core import scripts
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt

_CJK = scripts.SCRIPTS["Han"] + scripts.SCRIPTS["Kana"]
# Scripts without spaces between words: a letter with its signs is a word.
_UNSPACED = "".join(scripts.SCRIPTS[name] for name in (
    "Thai", "Lao", "Tibetan", "Myanmar", "Khmer"))
# Letters of the other scripts, with the vowel signs that \\w does not match.
_LETTERS = scripts.MARKS + "".join(
    ranges for name, ranges in scripts.SCRIPTS.items()
    if ranges not in _CJK + _UNSPACED)
# Scripts whose words also contain signs that \\w does not match.
_SPACED = scripts.MARKS + "".join(
    scripts.SCRIPTS[name] for name in (
        "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil",
        "Telugu", "Kannada", "Malayalam", "Sinhala", "Arabic", "Hebrew"))
_PART = rf"(?:[{_LETTERS}]|[^\W{_CJK}{_UNSPACED}])+"
_SIGN = r"[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece" \
    r"\u0f71-\u0f84\u0f8d-\u0fbc\u102b-\u103e\u1056-\u1059\u105e-\u1060" \
    r"\u17b4-\u17d3\u17dd]"
_WORD = re.compile(
    rf"[{_CJK}]|[{_UNSPACED}]{_SIGN}*|{_PART}(?:['’-]{_PART})*")
_SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’)\]*_]{0,4}(?=\s|$)|[。！？]+")
# Abbreviations. A full stop after a title never ends a sentence; after others
# it does before a capital letter; after initials and "No." it depends on what
# follows: "J. Smith", "plan B. We", "No. 5".
_TITLE = re.compile(
    r"\b(?:mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|gen|col|lt|sgt|capt|rev|hon|gov"
    r"|sen|rep|mt|fig|cf|ca|approx|vol)$", re.IGNORECASE)
_SHORTENED = re.compile(
    r"(?:\b(?:etc|inc|ltd|co|corp|jr|sr|al|dept|ave|ft)|\b[a-z]\.[a-z])$",
    re.IGNORECASE)
_ACRONYM = re.compile(r"\b[A-Z]\.[A-Z]$")
_INITIAL = re.compile(r"(?:(\S+)[ \t]+)?[\"'“‘(*_]{0,3}(?<!\w)([^\W\d_])$")
_NUMBERED = re.compile(r"\b(?:no|nos|p|pp|sec|ch|art)$", re.IGNORECASE)
_STARTERS = frozenset(
    """the a an we he she it they i this that these those there then but and so
    in on at if when you my our his her its their as for after before what who
    why how is are do no yes not now here all some one two later every everyone
    everything nobody nothing while with from to please let see next first
    finally also today""".split())
_LETTERED = frozenset(
    """a an the plan vitamin option grade letter type class point group part
    section team answer choice figure room gate side appendix chapter level size
    version model note key line row column unit variable question step case
    platform track door wing hall block did do does can could will would should
    am and or""".split())
_MARKER = re.compile(r"^[ \t]*(?:\d{1,3}[.)]|[-*•])[ \t]+", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[-*][ \t]+\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"(?<!\*)(\*{1,2})(?![\s*])[^*\n]*[^*\s]\1(?!\*)")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]*)\](?!\()")
_BRACKETED = re.compile(r"<<([^<>\n]*)>>")
_FIXED = ("my answer is yes.", "my answer is no.", "my answer is maybe.")

# Known languages by script; those of one script need the detector.
_SCRIPTS = {
    "ARABIC": ("ar", "fa", "ur"),
    "BENGALI": ("bn",),
    "CJK": ("zh",),
    "CYRILLIC": ("bg", "ru", "uk"),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "GREEK": ("el",),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "HANGUL": ("ko",),
    "HEBREW": ("he",),
    "HIRAGANA": ("ja",),
    "KANNADA": ("kn",),
    "LATIN": ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it", "nl",
              "pl", "pt", "ro", "sv", "sw", "tl", "tr", "vi"),
    "MALAYALAM": ("ml",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "THAI": ("th",),
}
_SCRIPT = {language: script for script, languages in _SCRIPTS.items()
           for language in languages}
_OWN_SCRIPT = 0.8  # least share of letters of the script; the rest may be names
_DETECTABLE = 5  # least words for the detector; fewer are judged by script


def verify(prompt: Prompt, response: Response) -> Score:
  """1 if the answer follows every instruction of the prompt, else 0.

  `prompt.reference` is {"ids": ["punctuation:no_comma", ...], "kwargs": [{},
  ...]}; arguments that are None count as absent. Reasons: "correct", "no
  answer", or the first instruction that is not followed. Parts: followed, the
  share of instructions that are followed.

  Raises:
    ValueError: an unknown instruction, or wrong arguments for it.
  """
  ids = prompt.reference["ids"]
  checks = _checks(prompt)
  answer = unicodedata.normalize("NFC", response.answer.strip())
  if not answer:
    return Score(0.0, True, "no answer", {"followed": 0.0})
  followed = [check(answer, **given) for check, given in checks]
  share = sum(followed) / len(followed)
  reason = "correct" if share == 1 else ids[followed.index(False)]
  return Score(float(share == 1), True, reason, {"followed": share})


def strict_and_loose(prompt: Prompt, response: Response) -> Score:
  """`verify`, with IFEval's loose accuracy in addition (arXiv:2311.07911).

  An instruction is followed loosely if any of eight variants of the answer
  follows it: without its first line, its last line, both or neither, each with
  and without its asterisks. Parts: followed and loose, shares of instructions;
  instructions, their number.
  """
  score = verify(prompt, response)
  answer = unicodedata.normalize("NFC", response.answer.strip())
  checks = _checks(prompt)
  loose = [any(check(reading, **given) for reading in readings(answer))
           for check, given in checks] if answer else [False]
  return dataclasses.replace(score, parts={
      **score.parts, "loose": sum(loose) / len(loose),
      "instructions": float(len(checks))})


def readings(answer: str) -> list[str]:
  """IFEval's eight variants of an answer, without blank ones."""
  lines = answer.split("\n")
  found = [answer, *("\n".join(part).strip() for part in (
      lines[1:], lines[:-1], lines[1:-1]))]
  found += [reading.replace("*", "") for reading in found]
  return [reading for reading in dict.fromkeys(found) if reading.strip()]


def _checks(prompt: Prompt) -> list[tuple[Callable[..., bool], dict[str, Any]]]:
  """The checks of the prompt's instructions, with validated arguments."""
  ids, kwargs = prompt.reference["ids"], prompt.reference["kwargs"]
  if not ids or len(ids) != len(kwargs):
    raise ValueError(
        f"prompt {prompt.id}: {len(ids)} instructions, {len(kwargs)} arguments")
  checks = [_arguments(name, given) for name, given in zip(ids, kwargs)]
  return [(check, _composed(given)) for check, given in checks]


def _composed(given: Any) -> Any:
  """All texts in a JSON value normalised to NFC."""
  if isinstance(given, str):
    return unicodedata.normalize("NFC", given)
  if isinstance(given, list):
    return [_composed(item) for item in given]
  if isinstance(given, dict):
    return {key: _composed(item) for key, item in given.items()}
  return given


def _arguments(
    name: str, given: Mapping[str, Any]
) -> tuple[Callable[..., bool], dict[str, Any]]:
  """The check of an instruction, with validated arguments."""
  if name not in CHECKS:
    raise ValueError(
        f"instruction {name!r} is unknown; known are {sorted(CHECKS)}")
  check, kinds = CHECKS[name]
  given = {key: value for key, value in given.items() if value is not None}
  wrong = given.keys() ^ kinds.keys() or any(
      not isinstance(given[key], kind) for key, kind in kinds.items())
  if wrong or any(given[key] not in _RELATIONS
                  for key in kinds if key.endswith("relation")):
    raise ValueError(
        f"instruction {name!r} got the arguments {given!r}; it takes "
        f"{ {key: kind.__name__ for key, kind in kinds.items()} }, with "
        f"relations {sorted(_RELATIONS)}")
  if given.get("language", "en") not in {*_SCRIPT}:
    raise ValueError(
        f"language {given['language']!r} is unknown; known are"
        f" {sorted(_SCRIPT)}")
  return check, given


_RELATIONS = {
    "at least": lambda count, bound: count >= bound,
    "less than": lambda count, bound: count < bound,
}


def words(text: str) -> list[str]:
  """The words of a text; each Chinese or Japanese character is one."""
  return _WORD.findall(text)


def sentences(text: str) -> int:
  """Number of sentences; a rest without a full stop counts as one.

  List numbers, titles and initials do not end a sentence; "p.m.", "etc." and
  the like end one if a capital letter follows.
  """
  text = _MARKER.sub("", text)
  count = start = 0
  for match in _SENTENCE_END.finditer(text):
    before = text[max(start, match.start() - 40):match.start()]
    after = text[match.end():match.end() + 30]
    marks = match.group().rstrip("\"'”’)]*_")
    if marks == "." and not _ends(before, after):
      continue
    count += bool(re.search(r"\w", text[start:match.start()]))
    start = match.end()
  return count + bool(re.search(r"\w", text[start:]))


def _ends(before: str, after: str) -> bool:
  """Whether a full stop between these ends a sentence."""
  after = after.lstrip(" \t\"'“‘(*_")
  word = re.match(r"[^\W\d_]*", after).group()
  if not after or after[0] == "\n":
    return True
  if _TITLE.search(before) or _NUMBERED.search(before) and after[0].isdigit():
    return False
  if _SHORTENED.search(before):
    return after[0].isupper() and (
        not _ACRONYM.search(before) or word.casefold() in _STARTERS)
  initial = _INITIAL.search(before)
  if not initial:
    return True
  # A single letter: an initial before a name, or the sentence's last word.
  said, letter = initial.groups()
  if not after[0].isupper():
    return not after[0].isalpha() and not after[0].isdigit()
  if len(word) > 1 and word.casefold() in _STARTERS or (
      word in ("I", "A") and not after.startswith(f"{word}.")):
    return True
  return said is not None and (
      said.casefold() in _LETTERED or letter == "I" and said.islower())


def in_language(text: str, language: str) -> bool:
  """Whether a text as a whole is in a language (ISO 639-1 code).

  At least 80 % of its letters must be of the language's script. Among the known
  languages of the same script py3langid decides.
  """
  letters: Counter[str] = Counter()
  for character, count in Counter(text).items():
    if character.isalpha():
      letters[unicodedata.name(character, "").partition(" ")[0]] += count
  script = _SCRIPT[language]
  own = letters[script]
  if language == "ja":
    own = own and own + letters["CJK"] + letters["KATAKANA"]
  if not own or own < _OWN_SCRIPT * letters.total():
    return False
  rivals = _SCRIPTS[script]
  if len(rivals) == 1:
    return True
  ranked = _detector()(text[:10_000].casefold())
  return language == next(name for name, _ in ranked if name in rivals)


@functools.cache
def _detector() -> Callable[[str], list[tuple[str, float]]]:
  """A function that ranks languages of a text; loading it takes a second."""
  with clock_stopped():
    import py3langid

    py3langid.rank("")
  return py3langid.rank


def _english(answer: str) -> bool:
  if len(words(answer)) >= _DETECTABLE:
    return in_language(answer, "en")
  return all(unicodedata.name(c, "").startswith("LATIN")
             for c in answer if c.isalpha())


def _keyword(keyword: str) -> re.Pattern[str]:
  """Pattern of a whole word; in scripts without spaces, of any occurrence."""
  edge = rf"(?:[{_SPACED}]|[^\W\u0e00-\uffff])"
  return re.compile(
      rf"(?<!{edge}){re.escape(keyword.strip())}(?!{edge})", re.IGNORECASE)


def _existence(answer: str, keywords: list[str]) -> bool:
  return all(_keyword(keyword).search(answer) for keyword in keywords)


def _forbidden(answer: str, forbidden_words: list[str]) -> bool:
  return not any(_keyword(word).search(answer) for word in forbidden_words)


def _frequency(
    answer: str, keyword: str, frequency: int, relation: str) -> bool:
  count = sum(1 for _ in _keyword(keyword).finditer(answer))
  return _RELATIONS[relation](count, frequency)


def _letter_frequency(
    answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
  count = answer.lower().count(letter.lower())
  return _RELATIONS[let_relation](count, let_frequency)


def _number_sentences(answer: str, num_sentences: int, relation: str) -> bool:
  return _RELATIONS[relation](sentences(answer), num_sentences)


def _number_words(answer: str, num_words: int, relation: str) -> bool:
  return _RELATIONS[relation](len(words(answer)), num_words)


def _distinct_words(answer: str, num_words: int) -> bool:
  return len({word.casefold() for word in words(answer)
              if sum(map(str.isalpha, word)) > 1}) >= num_words


def _number_paragraphs(answer: str, num_paragraphs: int) -> bool:
  parts = re.split(r"^[ \t]*\*\*\*[ \t]*$", answer, flags=re.MULTILINE)
  inner = parts[1:-1] if len(parts) > 2 else []
  return (all(part.strip() for part in inner)
          and sum(bool(part.strip()) for part in parts) == num_paragraphs)


def _nth_paragraph(answer: str, num_paragraphs: int, nth_paragraph: int,
                   first_word: str) -> bool:
  parts = [part for part in re.split(r"\n\s*\n", answer) if part.strip()]
  if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
    return False
  first = parts[nth_paragraph - 1].split()[0].strip("\"'“”‘’*_#.,;:!?()")
  return first.casefold() == first_word.casefold()


def _placeholders(answer: str, num_placeholders: int) -> bool:
  placeholders = [
      inside for inside in _PLACEHOLDER.findall(answer) if inside.strip()]
  return len(placeholders) >= num_placeholders


def _postscript(answer: str, postscript_marker: str) -> bool:
  marker = re.escape(postscript_marker.rstrip("."))
  return re.search(rf"^[ \t*_>#]*{marker}(?!\w)[^\w\n]*\w", answer,
                   re.IGNORECASE | re.MULTILINE) is not None


def _bullets(answer: str, num_bullets: int) -> bool:
  return len(_BULLET.findall(answer)) == num_bullets


def _fixed_answer(answer: str) -> bool:
  return sum(option in answer.casefold() for option in _FIXED) == 1


def _highlights(answer: str, num_highlights: int) -> bool:
  highlights = _HIGHLIGHT.findall(_MARKER.sub("", answer))
  return len(highlights) >= num_highlights


def _sections(answer: str, section_spliter: str, num_sections: int) -> bool:
  numbers = re.findall(
      rf"^[ \t#*_>]*{re.escape(section_spliter)}[ \t]+(\d{{1,4}})\b", answer,
      re.MULTILINE | re.ASCII)
  return {int(number) for number in numbers} == {*range(1, num_sections + 1)}


def _is_json(answer: str) -> bool:
  text = re.sub(r"\A```(?:json)?\s", "", answer, flags=re.IGNORECASE)
  try:
    return isinstance(
        json.loads(text.removesuffix("```").strip()), dict | list)
  except (ValueError, RecursionError):
    return False


def _title(answer: str) -> bool:
  return any(title.strip() for title in _BRACKETED.findall(answer))


def _two_responses(answer: str) -> bool:
  parts = [part.strip() for part in re.split(r"(?<!\*)\*{6}(?!\*)", answer)]
  return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _repeats(answer: str, prompt_to_repeat: str) -> bool:
  first = prompt_to_repeat.strip().casefold()
  text = answer.casefold()
  return text.startswith(first) and bool(words(text[len(first):]))


def _ends_with(answer: str, end_phrase: str) -> bool:
  text = answer.strip("\"*_ \n").casefold()
  return text.endswith(end_phrase.strip().strip('"').casefold())


def _quoted(answer: str) -> bool:
  return len(answer) > 2 and answer[0] + answer[-1] in ('""', "“”") and bool(
      answer[1:-1].strip())


def _upper(answer: str) -> bool:
  return answer.isupper() and _english(answer)


def _lower(answer: str) -> bool:
  return answer.islower() and _english(answer)


def _capital_words(
    answer: str, capital_frequency: int, capital_relation: str) -> bool:
  count = sum(word.isupper() for word in words(answer))
  return _RELATIONS[capital_relation](count, capital_frequency)


def _no_comma(answer: str) -> bool:
  return not any(comma in answer for comma in ",，、،﹐﹑")


# The check of each instruction and the type of each of its arguments.
CHECKS: dict[str, tuple[Callable[..., bool], dict[str, type]]] = {
    "change_case:capital_word_frequency": (
        _capital_words, {"capital_frequency": int, "capital_relation": str}),
    "change_case:english_capital": (_upper, {}),
    "change_case:english_lowercase": (_lower, {}),
    "combination:repeat_prompt": (_repeats, {"prompt_to_repeat": str}),
    "combination:two_responses": (_two_responses, {}),
    "detectable_content:number_placeholders": (
        _placeholders, {"num_placeholders": int}),
    "detectable_content:postscript": (_postscript, {"postscript_marker": str}),
    "detectable_format:constrained_response": (_fixed_answer, {}),
    "detectable_format:json_format": (_is_json, {}),
    "detectable_format:multiple_sections": (
        _sections, {"section_spliter": str, "num_sections": int}),
    "detectable_format:number_bullet_lists": (_bullets, {"num_bullets": int}),
    "detectable_format:number_highlighted_sections": (
        _highlights, {"num_highlights": int}),
    "detectable_format:title": (_title, {}),
    "keywords:existence": (_existence, {"keywords": list}),
    "keywords:forbidden_words": (_forbidden, {"forbidden_words": list}),
    "keywords:frequency": (
        _frequency, {"keyword": str, "frequency": int, "relation": str}),
    "keywords:letter_frequency": (
        _letter_frequency,
        {"letter": str, "let_frequency": int, "let_relation": str}),
    "language:response_language": (in_language, {"language": str}),
    "length_constraints:distinct_words": (_distinct_words, {"num_words": int}),
    "length_constraints:nth_paragraph_first_word": (
        _nth_paragraph,
        {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}),
    "length_constraints:number_paragraphs": (
        _number_paragraphs, {"num_paragraphs": int}),
    "length_constraints:number_sentences": (
        _number_sentences, {"num_sentences": int, "relation": str}),
    "length_constraints:number_words": (
        _number_words, {"num_words": int, "relation": str}),
    "punctuation:no_comma": (_no_comma, {}),
    "startend:end_checker": (_ends_with, {"end_phrase": str}),
    "startend:quotation": (_quoted, {}),
}
