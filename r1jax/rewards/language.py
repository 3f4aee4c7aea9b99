"""Language consistency: the share of a thought's words in the target language.

(# target-language words in the CoT) / (# words in the CoT): paper, Nature
version, eq. 7, which does not say how words are split and languages recognised.
`consistency` goes by script; `consistency_detected` also distinguishes Latin
languages, by a trained detector.
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

# Languages that the detector chooses from, beside the target.
DETECTED = ("de", "en", "es", "fr", "ja", "ru", "zh")

# Mathematics, code and tags. Every pattern excludes its own opening delimiter,
# so that the time is linear. What is never closed stays, except a code fence.
_REMOVED = re.compile("|".join([
    r"```[^`]*(?:`(?!``)[^`]*)*(?:```|\Z)",
    r"`[^`\n]*`",
    r"\\\$",
    r"\$\$[^$]*\$\$",
    # Pandoc's rule: $5 and $6 are money, and the text between them is text.
    r"\$(?![\s$])[^$\n]*(?<!\s)\$(?!\d)",
    r"\\\[[^\\]*(?:\\(?![\[\]])[^\\]*)*\\\]",
    r"\\\([^\\]*(?:\\(?![()])[^\\]*)*\\\)",
    r"\\(?:begin|end|operatorname|math[a-z]{1,6})\*?\{[^{}\n]{0,40}\}",
    r"\\[A-Za-z]+",
    r"</?[A-Za-z][\w-]{0,30} ?/?>",
]))
_SHORTEST = 2  # least letters of a word; a single one is a variable


def consistency(prompt: Prompt, response: Response) -> Score:
  """Share of the thought's words in scripts of the prompt's language.

  Mathematics ($...$, \\(...\\), \\[...\\], LaTeX commands), code (fences, and
  text between backticks) and tags are removed first. Single letters are no
  words (they are variables); in Chinese, Japanese, Korean and Thai every
  character is a word.

  Limits: languages of the same script are not distinguished, nor is Chinese
  from Japanese without kana, and text inside mathematics or code is ignored. A
  thought without words gets 0: else saying nothing would be the cheapest way to
  the reward.

  Returns:
    A value in [0, 1]; parts: `words`, the denominator.

  Raises:
    ValueError: the scripts of `prompt.language` are not known.
  """
  wanted = scripts.of_language(prompt.language)
  target, words = _count(_REMOVED.sub(" ", response.thinking), wanted)
  return _share(target, words)


def consistency_detected(prompt: Prompt, response: Response) -> Score:
  """As `consistency`, with a detector that also distinguishes Latin languages.

  Words of other scripts are removed, because the detector misses single foreign
  words. A word then counts if the detector assigns its segment to the prompt's
  language. The detector chooses from `DETECTED` and that language. Its models
  take a second to load and a few hundred megabytes in every worker. Thoughts of
  more than 200,000 characters may exceed the deadline.

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
  """(number of words in the wanted scripts, number of words)."""
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
