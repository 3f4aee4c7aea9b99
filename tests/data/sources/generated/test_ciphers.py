import re
from collections import Counter

from r1jax.data.sources.generated import ciphers
from tests.data.sources.generated import cases

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def test_rules_by_hand():
  assert ciphers.shift("xyz", 3) == "abc"
  assert ciphers.shift("hello", 13) == "uryyb"
  assert ciphers.atbash("abyz") == "zyba"
  assert ciphers.fence("zebras") == "zbaers"
  assert ciphers.vigenere("attack", "bad") == "btwbcn"


def _solve(prompt):
  """Solves the question from its text, by other means than it was made."""
  text, family = prompt.question, prompt.metadata["family"]
  quoted = re.findall('"(.*?)"', text)
  numbers = [int(n) for n in re.findall(r"-?\d+", text)]
  if family in ("encode_caesar", "decode_caesar"):
    by = numbers[0] if family == "encode_caesar" else -numbers[0]
    return "".join(chr((ord(c) - 97 + by) % 26 + 97) for c in quoted[0])
  if family == "reversed":
    return "".join(reversed(quoted[0]))
  if family == "reversed_words":
    return " ".join(text.partition(": ")[2].split()[::-1])
  if family == "atbash":
    return "".join(chr(219 - ord(c)) for c in quoted[0])
  if family == "positions":
    code = re.search(r"word is ([\d-]+)\?", text).group(1)
    return "".join(ALPHABET[int(n) - 1] for n in code.split("-"))
  if family == "fence":
    word = quoted[0]
    return "".join(word[i] for i in sorted(
        range(len(word)), key=lambda i: (i % 2, i)))
  if family == "vigenere":
    key = quoted[1] * 20
    return "".join(ALPHABET[(ALPHABET.index(c) + ALPHABET.index(k)) % 26]
                   for c, k in zip(quoted[0], key))
  if family in ("arithmetic", "falling"):
    return str(2 * numbers[-1] - numbers[-2])
  if family == "geometric":
    assert numbers[-1] % numbers[-2] == 0
    return str(numbers[-1] ** 2 // numbers[-2])
  if family == "fibonacci":
    return str(numbers[-1] + numbers[-2])
  if family == "growing":
    a, b, c = numbers[-3:]
    return str(c + (c - b) + (c - b) - (b - a))
  if family == "letters":
    shown = [ord(c) for c in re.search(": (.*)[?]", text).group(1).split()]
    return ALPHABET[(shown[-1] + shown[1] - shown[0] - 97) % 26]
  if family == "cycle":
    shown = re.search("pattern (.*) [.]{3}", text).group(1).split()
    return shown[(numbers[0] - 1) % len(shown)]
  raise AssertionError(family)


def test_references_against_a_solver_of_the_questions():
  families = Counter()
  for split in ("train", "validation", "test"):
    for p in cases.rows("ciphers", split):
      families[p.metadata["family"]] += 1
      assert _solve(p) == p.reference, p.question
      assert len(p.question) <= 110
  assert len(families) == 15 and min(families.values()) >= 40


def test_hard_rows_apply_both_rules():
  for p in cases.rows("ciphers", "hard"):
    word = re.search('"(.*?)"', p.question).group(1)
    for rule in p.question.partition(": ")[2].split("; then "):
      if rule.startswith("move"):
        word = ciphers.shift(word, int(re.search(r"\d+", rule).group()))
      elif rule.startswith("write it backwards"):
        word = word[::-1]
      elif rule.startswith("swap"):
        word = ciphers.atbash(word)
      else:
        word = ciphers.fence(word)
    assert word == p.reference


def test_verifier():
  from r1jax.rewards.logic import verdicts

  for p in cases.rows("ciphers", "test"):
    assert p.verifier == "exact"
    for right in (p.reference, f"\\boxed{{{p.reference}}}",
                  f"The answer is {p.reference}."):
      assert verdicts.exact(p, cases.respond(right)).value == 1
    for wrong in (p.reference + "e", p.reference[1:], "?"):
      assert verdicts.exact(p, cases.respond(wrong)).value == 0
