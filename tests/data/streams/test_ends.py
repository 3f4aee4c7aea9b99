"""Where answers end, and on which day: as template, model and run say."""

import datetime
import json

import pytest

from r1jax.data.streams import preference, sft
from r1jax.data.text import chat, hf_tokenizer, jinja, templates
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.stages import exporting
from tests.data.streams.test_sft import ASK, BRIEF, encoded
from tests.data.text import hf_cases

TURN, TEXT = "<|im_end|>", "<|endoftext|>"
DATED = "{{ strftime_now('%d %B %Y') }}" + hf_cases.QWEN


def base(folder, template=hf_cases.QWEN, **generation):
  """A base whose texts end, with a template whose turns end otherwise."""
  return hf_cases.write(
      folder, hf_cases.pieces(), {
          "bos_token": None, "eos_token": TEXT, "add_bos_token": False,
          "chat_template": template}, generation_config=generation)


def ids(tokenizer, *tokens):
  return {i for token in tokens for i in tokenizer.encode_chat(token)}


@pytest.mark.parametrize("template", ["chat", "chat-think"])
def test_the_templates_own_end_is_trained_and_ends(tmp_path, template):
  tokenizer = hf_tokenizer.load(base(tmp_path, temperature=0.7))
  assert tokenizer.eos_ids == ids(tokenizer, TEXT)
  ended = templates.ended(tokenizer, template)
  assert ended.eos_ids == ids(tokenizer, TEXT, TURN)
  assert templates.ended(ended, template) is ended
  (turn,) = ids(tokenizer, TURN)
  for one in (tokenizer, ended):
    (example,) = encoded([ASK, BRIEF], template, one)
    assert example.tokens[example.trained][-1] == turn
    assert sft.end_of_answer(template, one) == turn
  # What follows a turn comes once.
  (two,) = encoded([ASK, BRIEF, ASK, BRIEF], "chat", ended)
  assert (two.tokens == turn).sum() == 1 + 2 * 2  # the system's own is one
  # Its files say so, to whoever loads the run.
  assert json.loads(ended.files["generation_config.json"]) == {
      "temperature": 0.7, "eos_token_id": sorted(ended.eos_ids)}


def test_no_other_template_adds_an_end(tmp_path):
  tokenizer = hf_tokenizer.load(base(tmp_path))
  for template in ("r1-zero", "plain", "Q {question} A"):
    assert templates.ended(tokenizer, template) is tokenizer
    assert sft.end_of_answer(template, tokenizer) in tokenizer.eos_ids
  silent = hf_tokenizer.load(base(
      tmp_path / "b", "{% for m in messages %}{{ m.content }}\n{% endfor %}"))
  assert templates.ended(silent, "chat") is silent
  # One that refuses answers is told by whoever needs them.
  strict = hf_tokenizer.load(base(tmp_path / "c", "{{ raise_exception('x') }}"))
  assert templates.ended(strict, "chat") is strict


@pytest.mark.parametrize("generation,config,want", [
    ({}, {"eos_token_id": TURN}, [TURN, TEXT]),
    ({"eos_token_id": TURN}, {"eos_token_id": [TEXT]}, [TURN, TEXT]),
    ({"eos_token_id": [TURN]}, {}, [TURN, TEXT]),
    ({}, {"eos_token_id": TEXT}, [TEXT]),
    ({}, {"eos_token_id": None}, [TEXT]),
    ({}, {"text_config": {"eos_token_id": [TURN]}}, [TURN, TEXT])])
def test_ends_are_those_of_all_files(tmp_path, generation, config, want):
  """tokenizer_config.json names <|endoftext|>."""
  known = hf_tokenizer.load(base(tmp_path / "known"))

  def numbered(fields):
    text = json.dumps(fields)
    for token in (TURN, TEXT):
      (number,) = ids(known, token)
      text = text.replace(json.dumps(token), str(number))
    return json.loads(text)

  folder = base(tmp_path / "made", **numbered(generation))
  (folder / "config.json").write_text(json.dumps(numbered(config)))
  tokenizer = hf_tokenizer.load(folder)
  assert tokenizer.eos_ids == ids(known, *want)
  # A run keeps the tokenizer without the model's config, an export names all.
  tokenizer_lib.keep(tokenizer, tmp_path / "run")
  kept = hf_tokenizer.load(tmp_path / "run" / tokenizer_lib.FOLDER)
  assert kept.eos_ids == tokenizer.eos_ids
  said = json.loads(exporting.generation(kept))["eos_token_id"]
  assert (said if isinstance(said, list) else [said]) == sorted(kept.eos_ids)


def test_a_malformed_config_is_not_the_tokenizers_affair(tmp_path):
  for text in ("{", "[]", '{"eos_token_id": "x"}', '{"eos_token_id": [-1]}'):
    folder = base(tmp_path)
    (folder / "config.json").write_text(text)
    tokenizer = hf_tokenizer.load(folder)
    assert tokenizer.eos_ids == ids(tokenizer, TEXT)


def test_a_run_is_always_on_one_day(tmp_path):
  today = hf_tokenizer.load(base(tmp_path, DATED))
  assert today.date == "" and preference.dated("chat", today)
  then = today.on("2025-01-26")
  assert then.date == "2025-01-26"
  assert chat.render(then, [ASK]).startswith("26 January 2025<|im_start|>")
  assert chat.render(today, [ASK]).startswith(
      datetime.datetime.now().strftime("%d %B %Y"))
  (example,) = encoded([ASK, BRIEF], "chat", then)
  assert "26 January 2025" in then.decode(example.tokens)
  # With its folder the day goes on, whatever the clock says.
  tokenizer_lib.keep(then, tmp_path / "run")
  kept = hf_tokenizer.load(tmp_path / "run" / tokenizer_lib.FOLDER)
  assert chat.render(kept, [ASK]) == chat.render(then, [ASK])
  assert templates.ended(then, "chat").date == "2025-01-26"
  with pytest.raises(ValueError, match="is another tokenizer"):
    tokenizer_lib.keep(today.on("2025-01-27"), tmp_path / "run")


def test_the_sandbox_tells_any_day():
  source = "{{ strftime_now('%A %j') }}"
  assert jinja.render(source, {}, "2024-12-31") == "Tuesday 366"
