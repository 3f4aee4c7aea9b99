import collections
import json
import random

import numpy as np
import pytest

from r1jax.core import config as config_lib
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import mixture
from r1jax.data.sources.mixture import Mixture, MixtureConfig, parse


def source(name, count, domain="math", verifier="math", **metadata):
  return [Prompt(id=i, domain=domain, source=name, messages=ask(f"{name} {i}"),
                 reference="1", verifier=verifier, metadata=metadata)
          for i in range(count)]


def parts(**counts):
  return {name: source(name, count) for name, count in counts.items()}


def names(mixed, draws, seed=0):
  at = mixed.order(seed)
  return [at(i).source for i in range(draws)]


@pytest.mark.parametrize("text,unit,amounts", [
    ("gsm8k:2,mbpp:1", "weight", {"gsm8k": 2, "mbpp": 1}),
    ("gsm8k:3x, mbpp:0.5x", "epochs", {"gsm8k": 3, "mbpp": 0.5}),
    ("gsm8k:10%", "epochs", {"gsm8k": 0.1}),
    ("gsm8k,mbpp", "epochs", {"gsm8k": 1, "mbpp": 1}),
    ("gsm8k,mbpp:2x", "epochs", {"gsm8k": 1, "mbpp": 2}),
    ("gsm8k@test[:100]:2,b:1", "weight", {"gsm8k@test[:100]": 2, "b": 1}),
    ("gsm8k@test[:10%]", "epochs", {"gsm8k@test[:10%]": 1}),
    ("r1-rl", "kind", {"math": 26, "code": 17, "bugfix": 8, "stem": 22,
                       "logic": 15, "general": 66, "safety": 12}),
    ("r1-rl:code+math", "kind", {"math": 26, "code": 17})])
def test_text_forms(text, unit, amounts):
  found = parse(text)
  assert (found.unit, dict(found.amounts)) == (unit, amounts)
  saved = json.loads(json.dumps(config_lib.to_dict(found)))
  assert config_lib.from_dict(MixtureConfig, saved) == found


@pytest.mark.parametrize("text,message", [
    ("", "is not NAME"), ("a,,b", "is not NAME"), (":2", "is not NAME"),
    ("a:2,b", r"weights \(a:2\) and epochs \(b\)"),
    ("a:2,b:1x", "give every source a weight"),
    ("a,a", "names 'a' twice"), ("a:0", "amount 0.0 of 'a' must be positive"),
    ("a:-1x", "-1.0 of 'a'"), ("a:nan", "nan of 'a'"), ("a:inf%", "inf of 'a'"),
    ("a:1e999", "inf of 'a'"), ("a:", "'' of the source 'a' is not an amount"),
    ("a:two", "'two' of the source 'a' is not an amount; write a:2"),
    ("a:2xx%", "'2xx%'"), ("r1-rl,a", "cannot be mixed"),
    ("r1-rl:maths", "no kind 'maths'; it has math, code"),
    ("r1-rl:math+math", "names math twice"), ("r1-rl:", "no kind ''")])
def test_wrong_texts(text, message):
  with pytest.raises(ValueError, match=message):
    parse(text)


@pytest.mark.parametrize("make,text,message", [
    (dict(a=3), "a,b", "names b, not loaded; loaded are a"),
    (dict(a=3, b=3), "a", "does not name b"),
    (dict(a=3, b=0), "a,b", "source b has no prompts"),
    ({}, "a", "has no source"),
    (dict(a=3000), "a:4000x", "12000000 draws")])
def test_sources_and_text_must_agree(make, text, message):
  with pytest.raises(ValueError, match=message):
    Mixture(parts(**make), parse(text))


def test_config_is_checked_without_text():
  with pytest.raises(ValueError, match="unit='shares'"):
    MixtureConfig(amounts=(("a", 1.0),), unit="shares")
  with pytest.raises(ValueError, match="no kind maths"):
    MixtureConfig(amounts=(("maths", 1.0),), unit="kind")


def test_dealing_keeps_every_share_at_every_draw():
  rng = random.Random(0)
  for _ in range(60):
    draws = [rng.choice([1, 2, 3, 7, 50, 400])
             for _ in range(rng.randint(1, 12))]
    dealt = mixture.deal(draws)
    counts = np.cumsum(dealt[:, None] == np.arange(len(draws)), axis=0)
    ideal = np.arange(1, len(dealt) + 1)[:, None] * np.array(draws) / sum(draws)
    assert (counts >= np.floor(ideal - 1e-9)).all()
    assert (counts <= np.ceil(ideal + 1e-9)).all()


@pytest.mark.parametrize("text", [
    "a:2,b:1", "a:0.1,b:0.3,c:0.6", "a:1,b:1,c:1", "a:100,b:1,c:0.5",
    "a:3.14159,b:2.71828,c:1.41421"])
def test_observed_shares_are_within_a_draw_of_the_weights(text):
  config = parse(text)
  amounts = dict(config.amounts)
  mixed = Mixture(parts(**{name: 1300 for name in amounts}), config)
  got = names(mixed, 3000)
  for name, amount in amounts.items():
    share = amount / sum(amounts.values())
    counts = np.concatenate([[0], np.cumsum([n == name for n in got])])
    off = counts - share * np.arange(len(counts))
    assert np.abs(off).max() <= 1.03  # 0.03: weights rounded to 2**17 draws
    windows = off[100:] - off[:-100]
    assert np.abs(windows).max() < 2.03
    # The teeth: another share is seen.
    assert abs(counts[-1] - 1.01 * share * 3000) > 1.03 or share < 0.05


def test_a_pass_of_epochs_has_every_prompt_as_often_as_said():
  mixed = Mixture(parts(a=10, b=7, c=20), parse("a,b:3x,c:45%"))
  assert mixed.period == 10 + 21 + 9
  at = mixed.order(4)
  passes = [[at(i).question for i in range(p * 40, p * 40 + 40)]
            for p in range(3)]
  for one in passes:
    counts = collections.Counter(one)
    assert {q: counts[q] for q in counts if q[0] != "c"} == {
        **{f"a {i}": 1 for i in range(10)}, **{f"b {i}": 3 for i in range(7)}}
    some = {q for q in counts if q[0] == "c"}
    assert len(some) == 9 and all(counts[q] == 1 for q in some)
  assert len(set(map(tuple, passes))) == 3
  # The fraction is the same in every pass and for every seed.
  other = mixed.order(5)
  assert {other(i).question for i in range(40)} == set(passes[0]) == set(
      passes[1])


def test_more_than_whole_epochs():
  mixed = Mixture(parts(a=10, b=1), parse("a:2.5x,b"))
  at = mixed.order(0)
  counts = collections.Counter(at(i).question for i in range(26))
  assert sorted(counts[f"a {i}"] for i in range(10)) == [2] * 5 + [3] * 5


def test_every_source_is_reshuffled_each_epoch_and_by_seed():
  mixed = Mixture(parts(a=30, b=30), parse("a,b"))

  def epoch(number, name, seed=0):
    at = mixed.order(seed)
    return [at(i).question.split()[1] for i in range(number * 60,
                                                     number * 60 + 60)
            if at(i).source == name]

  orders = [epoch(n, name, seed) for n in (0, 1) for name in "ab"
            for seed in (0, 1)]
  assert all(len(set(order)) == 30 for order in orders)
  assert len(set(map(tuple, orders))) == 8


def test_a_draw_depends_on_seed_and_position_alone():
  mixed = Mixture(parts(a=11, b=5), parse("a:2,b:1"))
  want = [mixed.order(7)(i) for i in range(50)]
  at = Mixture(parts(b=5, a=11), parse("b:1,a:2")).order(7)
  assert [at(i) for i in reversed(range(50))] == want[::-1]
  far = 2**40 - 1
  assert at(far) == mixed.order(7)(far)


def test_ids_are_unique_and_of_one_source_unchanged():
  mixed = Mixture(parts(b=5, a=11), parse("a,b"))
  at = mixed.order(0)
  ids = {at(i).question: at(i).id for i in range(16)}
  assert ids == {**{f"a {i}": i for i in range(11)},
                 **{f"b {i}": 10_000_000 + i for i in range(5)}}
  alone = Mixture(parts(b=5), parse("b:2x")).order(0)
  assert {alone(i).id for i in range(5)} == set(range(5))


def test_ids_out_of_range():
  def sources(count):
    return {f"s{i:03}": source("s", 1) for i in range(count)}

  most = sources(214)
  last = mixture.number(most, "s213", most["s213"][0])
  assert last.id == 2_130_000_000 and last.id + 9_999_999 < 2**31
  with pytest.raises(ValueError, match="at most 214 sources"):
    mixture.number(sources(215), "s000", most["s000"][0])
  high = Prompt(id=10_000_000, domain="math", source="a", messages=ask("?"),
                reference="", verifier="")
  assert mixture.number({"a": [high]}, "a", high) is high
  with pytest.raises(ValueError, match="prompt 10000000 of 'a'"):
    mixture.number({"a": [high], "b": [high]}, "a", high)


# Shuffling takes a millisecond a draw for ten prompts, 20 us for a thousand.
ALL = {
    "m1": source("m1", 3000), "m2": source("m2", 1000),
    "c": source("c", 900, "code", "code")
         + source("fix", 700, "code", "bugfix"),
    "s": source("s", 800, "stem", "choice"),
    "l": source("l", 900, "logic", "set"), "g": source("g", 999, "general", ""),
    "safe": source("safe", 800, "general", "", safety=True)}
PAPER = {"math": 26, "code": 17, "bugfix": 8, "stem": 22, "logic": 15,
         "general": 66, "safety": 12}  # thousands, Table 4


def test_the_papers_mixture():
  at = Mixture(ALL, parse("r1-rl")).order(0)
  draws = [at(i) for i in range(16600)]
  counts = collections.Counter(map(mixture.kind_of, draws))
  # Shares of m1 and m2 round apart, so math may be off by two.
  assert all(abs(counts[kind] - 100 * n) <= 2 for kind, n in PAPER.items())
  by_source = collections.Counter(p.source for p in draws)
  assert by_source["m1"] == pytest.approx(3 * by_source["m2"], abs=4)


def test_the_paper_s_mixture_restricted():
  at = Mixture({k: ALL[k] for k in ("m1", "c")}, parse("r1-rl:math+code"))
  at = at.order(0)
  counts = collections.Counter(mixture.kind_of(at(i)) for i in range(4300))
  assert counts.keys() == {"math", "code"}
  assert counts["math"] == pytest.approx(2600, abs=1)


def test_kinds_that_are_missing_or_unused():
  some = {k: ALL[k] for k in ("m1", "s")}
  with pytest.raises(ValueError, match="kind code, bugfix, logic, general,"
                     r" safety, which .*give r1-rl:math\+stem .*m1:1,s:1"):
    Mixture(some, parse("r1-rl"))
  with pytest.raises(ValueError, match="s has no prompts of the mixture's"):
    Mixture(some, parse("r1-rl:math"))


def test_explained():
  text = Mixture(parts(a=10, b=20), parse("a:3,b:1")).explain()
  assert text.splitlines() == [
      "a: 10 prompts, 75.0% of the draws, an epoch every 14 draws",
      "b: 20 prompts, 25.0% of the draws, an epoch every 80 draws"]
