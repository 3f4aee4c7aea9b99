import collections
import re

import pytest

from r1jax.core import config as config_lib
from r1jax.data.sources import arithmetic, corpus
from r1jax.data.text import templates

COUNT = 6000
# Four standard deviations of a share are at most 0.026 at this count.
SHARE_ATOL = 0.03


@pytest.fixture(scope="module")
def pages():
  return [(corpus.kind(0, i), corpus.document(0, i)) for i in range(COUNT)]


def _completion(page):
  return page.rpartition("Assistant:")[2]


def _chain(page):
  """Start and signed operands of a page's problem, from the words alone."""
  asked = re.search(r"(?:User|Question): (.*?) (?:Assistant|Answer):", page)
  # A page of kind "worked" has the question, then the first equation.
  question = asked[1] if asked else re.split(r" \d+[+-]\d+=", page)[0]
  if "How many" not in question:
    numbers = re.findall(r"([+-]?) ?(\d+)", question)
    first, *rest = [-int(n) if sign == "-" else int(n) for sign, n in numbers]
    return first, tuple(rest)
  first, *rest = re.findall(r"[^.?]*\d[^.?]*", question)
  loss = re.compile(r"gives away|loses|sells|takes|drops")
  return int(re.search(r"\d+", first)[0]), tuple(
      int(re.search(r"\d+", sentence)[0]) * (-1 if loss.search(sentence) else 1)
      for sentence in rest)


def _truth(page):
  start, deltas = _chain(page)
  return start + sum(deltas)


def test_shares_are_as_configured(pages):
  counts = collections.Counter(kind for kind, _ in pages)
  c = corpus.DEFAULT
  for name in ("tagged", "bare", "stepped", "spoiled", "fragment"):
    share = c.conversations * getattr(c, name)
    assert abs(counts[name] / COUNT - share) < SHARE_ATOL, name
  for name in ("facts", "worked", "quote", "plain", "prose"):
    share = (1 - c.conversations) * getattr(c, name)
    assert abs(counts[name] / COUNT - share) < SHARE_ATOL, name


def test_good_steps_are_a_minority_and_right(pages):
  stepped = [page for kind, page in pages if kind == "stepped"]
  assert len(stepped) < 0.12 * COUNT
  for page in stepped:
    answer = re.search(r"<answer> (\d+) </answer>$", page)
    assert int(answer[1]) == _truth(page)


def test_guesses_are_mostly_wrong_but_near(pages):
  right, total = 0, 0
  for kind, page in pages:
    if kind in ("tagged", "bare"):
      guess = int(re.search(r"\d+", _completion(page))[0])
      assert 0 <= guess <= 99 and abs(guess - _truth(page)) <= 15
      right += guess == _truth(page)
      total += 1
  assert abs(right / total - corpus.DEFAULT.guess_right) < 0.02


def test_one_guess_dominates(pages):
  """Else no guess is the likeliest page, and greedy decoding works sums out."""
  tagged = [_completion(page) for kind, page in pages if kind == "tagged"]
  empty = sum(text.startswith(" <think> </think>") for text in tagged)
  assert abs(empty / len(tagged) - 0.8) < 0.05  # four deviations: 0.05
  stepped = sum(kind == "stepped" for kind, _ in pages)
  assert empty > 2 * stepped


def test_facts_are_right_and_false_equations_rare(pages):
  equation = re.compile(r"(\d+)([+-])(\d+)=(\d+)")
  false = collections.Counter()
  for kind, page in pages:
    for a, sign, b, c in equation.findall(page):
      false[kind] += int(a) + (int(b) if sign == "+" else -int(b)) != int(c)
  spoiled = sum(kind == "spoiled" for kind, _ in pages)
  assert false.keys() - {k for k in false if not false[k]} <= {"spoiled"}
  assert 0 < false["spoiled"] < 0.2 * spoiled


def test_spoiled_pages_mostly_fail(pages):
  answers = [
      int(re.search(r"<answer> (\d+) </answer>$", page)[1]) == _truth(page)
      for kind, page in pages if kind == "spoiled"]
  assert sum(answers) / len(answers) < 0.1


def test_completions_begin_with_a_space_and_spacing_is_regular(pages):
  for kind, page in pages:
    assert "  " not in page and page == page.strip(), page
    if kind in ("tagged", "bare", "stepped", "spoiled", "fragment"):
      assert _completion(page).startswith(" ")
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
      assert page.count(tag) == len(re.findall(f"(?<= ){tag}(?= |$)", page))


def test_only_train_problems_are_told(pages):
  told = 0
  for kind, page in pages:
    if kind == "worked" and page[0].isdigit():
      # A running sum without a question, longer than any problem.
      assert 9 <= page.count("=") <= 14
    elif kind == "quote":
      said = re.fullmatch(r"\w+: (.*) \w+: (.*)", page)
      assert said[1] == said[2]
    elif kind not in ("facts", "prose"):
      chain = arithmetic.Problem(*_chain(page), "", "")
      assert chain.level in (3, 4, 5, 6)
      assert arithmetic.split_of(chain) == "train"
      told += 1
  assert told > 0.6 * COUNT


def test_pages_are_addressed():
  assert corpus.document(5, 77) == corpus.document(5, 77)
  assert corpus.document(5, 77) != corpus.document(6, 77)


def test_config_is_checked_and_survives_json():
  with pytest.raises(ValueError, match="shares must sum to 1"):
    corpus.CorpusConfig(tagged=0.5)
  with pytest.raises(ValueError, match="guess_right=1.5"):
    corpus.CorpusConfig(guess_right=1.5)
  c = corpus.CorpusConfig(guess_right=0.5)
  assert config_lib.from_dict(
      corpus.CorpusConfig, config_lib.to_dict(c)) == c
  guesses = [
      corpus.document(0, i, c) for i in range(800)
      if corpus.kind(0, i, c) == "tagged"]
  right = sum(
      int(re.search(r"\d+", _completion(p))[0]) == _truth(p) for p in guesses)
  assert 0.35 < right / len(guesses) < 0.65


def test_templates():
  text = templates.render("Is {x} in braces?")
  assert text.endswith("User: Is {x} in braces? Assistant:")
  for tag in ("<think>", "</think>", "<answer>", "</answer>"):
    assert text.count(tag) == 1
  assert templates.render("A?", "plain") == "Question: A? Answer:"
  with pytest.raises(ValueError, match="chat, chat-think, plain, r1, r1-zero"):
    templates.render("A?", "poem")
