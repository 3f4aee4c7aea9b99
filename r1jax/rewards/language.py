"""Language consistency: the share of the thought in the language asked for.

(# target-language words in the CoT) / (# words in the CoT): paper, Nature
version eq. 7, which is silent on how words are split and languages told apart.
`consistency` goes by script; `consistency_detected` tells Latin languages apart
too, by a trained detector.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from r1jax.core import scripts
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt

# What the detector chooses among, besides the target.
DETECTED = ("de", "en", "es", "fr", "ja", "ru", "zh")

# Mathematics, code and tags. Every pattern excludes its own opening sign, so
# that the time is linear; what never closes stays, but for a code fence.
_REMOVED = re.compile("|".join([
    r"```[^`]*(?:`(?!``)[^`]*)*(?:```|\Z)",
    r"`[^`\n]*`",
    r"\\\$",
    r"\$\$[^$]*\$\$",
    # As pandoc reads it: $5 and $6 are money, what lies between is text.
    r"\$(?![\s$])[^$\n]*(?<!\s)\$(?!\d)",
    r"\\\[[^\\]*(?:\\(?![\[\]])[^\\]*)*\\\]",
    r"\\\([^\\]*(?:\\(?![()])[^\\]*)*\\\)",
    r"\\(?:begin|end|operatorname|math[a-z]{1,6})\*?\{[^{}\n]{0,40}\}",
    r"\\[A-Za-z]+",
    r"</?[A-Za-z][\w-]{0,30} ?/?>",
]))
_SHORTEST = 2  # letters of a word; one is a variable


def consistency(prompt: Prompt, response: Response) -> Score:
  """Share of the thought's words that are in the prompt's language, by script.

  Mathematics ($...$, \\(...\\), \\[...\\], LaTeX commands), code (fences, and
  between backticks) and tags are removed first. Runs of one letter are no words
  (variables); Chinese, Japanese, Korean and Thai count by character.

  Limits: languages of one script are not told apart, nor is Chinese from
  Japanese written without kana; what is hidden in mathematics or code is not
  seen. A thought without words gets 0: silence is not consistent, and must not
  be the cheapest way to the reward.

  Returns:
    a value in [0, 1]; parts: `words`, the denominator.

  Raises:
    ValueError: the scripts of `prompt.language` are not known.
  """
  wanted = scripts.of_language(prompt.language)
  target, words = _count(_REMOVED.sub(" ", response.thinking), wanted)
  return _share(target, words)


def consistency_detected(prompt: Prompt, response: Response) -> Score:
  """As `consistency`, with a trained detector that also tells Latin languages.

  The detector judges what is left when the words of other scripts are taken
  out (it misses single foreign words), and a word counts if it puts the
  word's segment in the prompt's language. It chooses among `DETECTED` and that
  language; its models take a second to load and a few hundred megabytes in
  every worker. Thoughts of more than 200,000 characters can meet the deadline.

  Raises:
    ValueError: the scripts of `prompt.language` are not known, or the detector
      does not know the language.
    ImportError: lingua-language-detector is not installed.
  """
  wanted = scripts.of_language(prompt.language)
  text = _REMOVED.sub(" ", response.thinking)
  _, words = _count(text, wanted)
  if not words:
    return _share(0, 0)
  with clock_stopped():
    detector = _detector(prompt.language)
  text = scripts.keep(text, wanted)
  target = sum(
      _count(text[segment.start_index:segment.end_index], wanted)[0]
      for segment in detector.detect_multiple_languages_of(text)
      if segment.language.iso_code_639_1.name.lower() == prompt.language)
  return _share(target, words)


def _count(text: str, wanted: tuple[str, ...]) -> tuple[int, int]:
  """(words in the scripts wanted, words)."""
  counts = scripts.words_by_script(text, _SHORTEST)
  return sum(counts.get(name, 0) for name in wanted), sum(counts.values())


def _share(target: int, words: int) -> Score:
  if not words:
    return Score(0.0, True, "no words", {"words": 0.0})
  reason = "consistent" if target == words else "mixed"
  return Score(target / words, True, reason, {"words": float(words)})


@functools.lru_cache(maxsize=4)
def _detector(language: str) -> Any:
  try:
    import lingua
  except ImportError as error:
    raise ImportError(
        "consistency_detected needs the package lingua-language-detector; pip"
        " install it, or use language.consistency") from error
  known = {
      one.iso_code_639_1.name.lower(): one for one in lingua.Language.all()}
  if language not in known:
    raise ValueError(
        f"language={language!r} is not one that the detector knows; use"
        " language.consistency")
  chosen = [known[code] for code in sorted({*DETECTED, language})]
  return (lingua.LanguageDetectorBuilder.from_languages(*chosen)
          .with_preloaded_language_models().build())
