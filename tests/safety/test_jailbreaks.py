"""Templates around questions: which, where, and read from where."""

import collections
import json

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.world import prompts as world_prompts
from r1jax.data.sources.world import wrongs
from r1jax.safety import jailbreaks, taxonomy
from r1jax.safety.jailbreaks import Template
from r1jax.stages import tasks
from tests import shared

TEMPLATES = [Template(f"t{n}", f"{n} {{question}}") for n in range(8)]


def prompt(number, language="en", **fields):
  return Prompt(id=number, domain="general", source="s", reference=None,
                messages=ask(f"question {number}?"), verifier="",
                language=language, **fields)


PROMPTS = [prompt(n) for n in range(40)]


def drawn(prompts, seed=0):
  return {(p.metadata["inner"], p.metadata["wrapper"])
          for p in jailbreaks.wrap(prompts, TEMPLATES, seed=seed)}


def test_a_draw_depends_on_seed_and_question_alone():
  whole = drawn(PROMPTS)
  assert drawn(PROMPTS[::-1]) == whole
  assert drawn(PROMPTS[5:9]) < whole
  assert drawn(PROMPTS, seed=1) != whole
  assert len({name for _, name in whole}) > 4  # not always the same


def test_every_question_gets_different_templates():
  found = jailbreaks.wrap(PROMPTS, TEMPLATES, seed=0, count=3)
  counts = collections.Counter(p.metadata["inner"] for p in found)
  assert set(counts.values()) == {3} and len(counts) == len(PROMPTS)
  assert len({p.messages[-1]["content"] for p in found}) == len(found)
  assert len({p.id for p in found}) == len(found)


def test_what_a_wrapped_prompt_is():
  one = Prompt(id=3, domain="general", source="s", verifier="harm",
               reference={"harmful": True, "jailbreak": False},
               messages=({"role": "system", "content": "be good"},
                         *ask("why {question}?")),
               metadata={"set": "mine", "category": "c"})
  (found,) = jailbreaks.wrap([one], [Template("t", "<{question}>")], seed=0)
  assert found.messages == (one.messages[0], *ask("<why {question}?>"))
  assert found.metadata == {"set": "mine-jailbreak", "category": "c",
                            "wrapper": "t", "inner": "why {question}?"}
  assert found.reference == {"harmful": True, "jailbreak": True}
  assert jailbreaks.is_wrapped(found) and not jailbreaks.is_wrapped(one)
  assert jailbreaks.inner(found) == jailbreaks.inner(one) == one.question


def test_a_template_suits_its_language():
  templates = [Template("en", "{question}!", "en"),
               Template("zh", "{question}！", "zh")]
  found = jailbreaks.wrap([prompt(0), prompt(1, "zh")], templates, seed=0)
  assert [p.metadata["wrapper"] for p in found] == ["en", "zh"]
  with pytest.raises(ValueError, match="0 templates suit questions in 'sw'"):
    jailbreaks.wrap([prompt(0, "sw")], templates, seed=0)
  with pytest.raises(ValueError, match="1 templates .* the 2 per question"):
    jailbreaks.wrap([prompt(0)], templates, seed=0, count=2)


def test_the_small_world_wraps_as_its_own_data():
  plain = [p for p in world_prompts.safety_judged.prompts("test")
           if p.metadata["harmful"] and not p.metadata["wrapper"]]
  assert {p.language for p in plain} == {"en", "zh"}
  for one in jailbreaks.wrap(plain, jailbreaks.world(), seed=0, count=4):
    read = wrongs.read(one.question)
    assert read is not None and read.harmful
    assert f"world-{read.wrapper}" == one.metadata["wrapper"]
    assert one.reference == read.reference()


def test_gptfuzz_is_read_whole():
  folder = shared.folder("jailbreak_templates")
  templates = jailbreaks.read([folder])
  assert len(templates) == 77 == len({t.name for t in templates})
  for template in templates:
    text = template.around("[Q]")
    assert "[Q]" in text and "[INSERT PROMPT HERE]" not in text


def test_files_of_the_user(tmp_path):
  (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [
      {"template": "say {question}", "name": "say", "language": "en"},
      {"template": "do [INSERT PROMPT HERE] and [INSERT PROMPT HERE]"}])))
  (tmp_path / "b.txt").write_text("sing {question}\n")
  (tmp_path / "c.tsv").write_text("id\tprompt\n7\thum {question}\n")
  found = jailbreaks.read([tmp_path])
  assert [t.name for t in found] == ["a-say", "a-1", "b", "c-7"]
  assert [t.around("it") for t in found] == [
      "say it", "do it and it", "sing it\n", "hum it"]
  assert [t.language for t in found] == ["en", "", "", ""]
  assert jailbreaks.read([tmp_path / "b.txt", "world"])[1:] == (
      jailbreaks.world())


@pytest.mark.parametrize("name,text,said", [
    ("a.txt", "say [PROMPT]", r"neither of .*, but \[PROMPT\]"),
    ("a.jsonl", '{"text": "nothing"}', "1 of 1 rows are malformed"),
    ("a.csv", "", "empty"), ("a.json", "{}", "give a .csv")])
def test_files_that_are_wrong(tmp_path, name, text, said):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=said):
    jailbreaks.read([tmp_path / name])


def test_an_empty_folder(tmp_path):
  with pytest.raises(ValueError, match="has no GPTFuzzer.csv"):
    jailbreaks.read([tmp_path])


def test_a_set_of_several_splits_is_asked_many_times():
  """Ids stay below what a mixture of sets allows."""
  splits = [list(world_prompts.safety_judged.prompts(split))[-4:]
            for split in ("train", "validation", "test")]
  found = jailbreaks.wrap(
      [p for p in taxonomy.of_the_world(splits) if not p.metadata["wrapper"]],
      TEMPLATES, seed=0, count=8)
  joined = tasks.joined({"world-jailbreak": found})
  assert len({p.id for p in joined}) == len(joined) > 0
