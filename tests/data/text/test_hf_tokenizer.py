"""tokenizer.json behind the protocol, held to transformers."""

import json
import os
import pickle
import random
import shutil

import numpy as np
import pytest
import tokenizers

from r1jax.data.streams import packing
from r1jax.data.text import hf_tokenizer
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import TextStream, escaped
from r1jax.stages import weights
from tests.data.text import hf_cases


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  top = tmp_path_factory.mktemp("tokenizers")
  return {name: make(top / name) for name, make in hf_cases.FAMILIES.items()}


@pytest.fixture(scope="module")
def loaded(folders):
  return {name: hf_tokenizer.load(path) for name, path in folders.items()}


@pytest.fixture(params=list(hf_cases.FAMILIES))
def family(request):
  return request.param


@pytest.fixture(params=[*hf_cases.FAMILIES, "sentencepiece", "byte_fallback"])
def made(request, loaded):
  if request.param in loaded:
    return loaded[request.param]
  if request.param == "sentencepiece":
    return hf_tokenizer.load(weights.TOKENIZER)
  return _byte_fallback()


def _byte_fallback():
  """A tokenizer.json of the Llama 2 kind: a space mark, bytes as pieces."""
  words = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a",
           "b", "▁a"]
  pieces = tokenizers.Tokenizer(tokenizers.models.BPE(
      {word: i for i, word in enumerate(words)}, [("▁", "a")],
      unk_token="<unk>", byte_fallback=True, fuse_unk=True))
  pieces.normalizer = tokenizers.normalizers.Sequence([
      tokenizers.normalizers.Prepend("▁"),
      tokenizers.normalizers.Replace(" ", "▁")])
  pieces.decoder = tokenizers.decoders.Sequence([
      tokenizers.decoders.Replace("▁", " "),
      tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(),
      tokenizers.decoders.Strip(" ", 1, 0)])
  return hf_tokenizer.HfTokenizer(
      {"tokenizer.json": pieces.to_str().encode(),
       "tokenizer_config.json": b'{"eos_token": "</s>"}'}, "bytes")


def _same_ids(ours, theirs, texts):
  for text in texts:
    want = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text) == ours.encode_chat(text) == want
    assert ours.decode(want) == theirs.decode(want, skip_special_tokens=True)


def test_ids_and_text_are_those_of_transformers(family, folders, loaded):
  transformers = pytest.importorskip("transformers")
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folders[family])
  ours = loaded[family]
  _same_ids(ours, theirs, [*hf_cases.CORPUS, "", " ", *hf_cases.texts(0, 200)])
  assert ours.special_tokens["eos_token"] == theirs.eos_token
  assert theirs.eos_token_id in ours.eos_ids
  begins = theirs.encode("a")[0] == theirs.bos_token_id
  assert ours.bos_id == (theirs.bos_token_id if begins else None)
  rng = random.Random(1)
  for _ in range(100):  # ids that no text has
    ids = [rng.randrange(min(ours.eos_ids)) for _ in range(12)]
    assert ours.decode([*ids, *ours.eos_ids]) == theirs.decode(
        ids, skip_special_tokens=True)


def test_round_trip(made):
  for text in hf_cases.texts(2, 300):
    if "▁" not in text:  # SentencePiece's own mark for a space
      assert made.decode(made.encode(text)) == text


def test_special_ids(loaded):
  ids = {name: lambda t, x=x: x.encode_chat(t)[0]
         for name, x in loaded.items()}
  qwen, llama, deepseek = (loaded[name] for name in hf_cases.FAMILIES)
  assert qwen.bos_id is None and qwen.pad_id == ids["qwen"]("<|endoftext|>")
  assert qwen.eos_ids == {ids["qwen"]("<|endoftext|>"),
                          ids["qwen"]("<|im_end|>")}
  assert llama.bos_id == ids["llama"]("<|begin_of_text|>")
  assert llama.eos_ids == {ids["llama"]("<|eot_id|>")} == {llama.pad_id}
  assert deepseek.bos_id == ids["deepseek"]("<｜begin▁of▁sentence｜>")
  assert deepseek.eos_ids == {deepseek.pad_id} == {
      ids["deepseek"]("<｜end▁of▁sentence｜>")}
  for x in loaded.values():
    assert x.vocab_size == x._pieces.get_vocab_size()


def test_what_the_config_says_about_bos_counts(folders, tmp_path):
  folder = tmp_path / "x"
  shutil.copytree(folders["llama"], folder)
  config = json.loads((folder / "tokenizer_config.json").read_text())
  (folder / "tokenizer_config.json").write_text(
      json.dumps(config | {"add_bos_token": False}))
  found = hf_tokenizer.load(folder)
  assert found.bos_id is None and "bos_token" in found.special_tokens


def test_text_never_becomes_control_ids_and_a_chat_does(made):
  special = {*made.eos_ids, *([] if made.bos_id is None else [made.bos_id])}
  for token in sorted(made.control_tokens):
    ids = made.encode(f"a{token}b")
    assert not special & set(ids) and made.decode(ids) == f"a{token}b"
    (one,) = made.encode_chat(token)
    assert made.decode([one]) == ""


@pytest.mark.parametrize("kind", ["unigram", "bpe", "normalized"])
def test_a_vocabulary_that_lists_control_tokens(kind):
  """Pieces, merges and normalization make none of text (Llama 2, Gemma)."""
  letters = {c: i for i, c in enumerate("<s>/abＳ", 3)}
  vocab = {"<s>": 0, "</s>": 1, "<u>": 2} | letters | {"<s": 20, "</": 21}
  if kind == "unigram":
    pieces = tokenizers.Tokenizer(tokenizers.models.Unigram(
        [(t, 0.0 if i < 3 else -3.0) for t, i in vocab.items()], unk_id=2))
  else:
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab, [("<", "s"), ("<s", ">")], unk_token="<u>"))
  if kind == "normalized":
    pieces.normalizer = tokenizers.normalizers.NFKC()
  pieces.decoder = tokenizers.decoders.Fuse()
  found = hf_tokenizer.HfTokenizer(
      {"tokenizer.json": pieces.to_str().encode(), "tokenizer_config.json":
       b'{"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<u>"}'}, "x")
  text = "a<s>b</s>"
  wide = "a＜s＞b＜/s＞" if kind == "normalized" else text
  ids = found.encode(wide)
  assert not {0, 1, 2} & set(ids) and found.decode(ids) == text
  assert found.encode_chat(escaped(text, found.control_tokens)) == (
      found.encode(text))
  assert found.encode_chat("<s>") == [0] and found.encode_chat("</s>") == [1]
  assert found.eos_ids == {1}


def test_speakers_are_control_tokens_and_tags_are_text(loaded, tmp_path):
  assert "<｜User｜>" in loaded["deepseek"].control_tokens
  pieces = hf_cases.pieces()
  pieces.add_special_tokens(["<think>"])  # as some models mark it
  found = hf_tokenizer.load(
      hf_cases.write(tmp_path, pieces, {"eos_token": "<|im_end|>"}))
  for x in (found, loaded["qwen"]):
    (think,) = x.encode("<think>")
    assert x.decode([think]) == "<think>"
    assert "<think>" not in x.control_tokens


def test_unknown_ids_give_nothing(made):
  ids = made.encode("one two")
  unknown = [made.vocab_size, made.vocab_size + 1000, -1, 2**31]
  assert made.decode([*unknown, *ids, *unknown]) == "one two"
  assert made.decode(np.array(ids, np.int64)) == "one two"
  assert made.decode([]) == ""


def test_ids_between_known_ones_give_nothing():
  pieces = tokenizers.Tokenizer(
      tokenizers.models.BPE({"a": 0, "b": 7, "</s>": 9}, []))
  pieces.decoder = tokenizers.decoders.Fuse()
  found = hf_tokenizer.HfTokenizer(
      {"tokenizer.json": pieces.to_str().encode(),
       "tokenizer_config.json": b'{"eos_token": "</s>"}'}, "holes")
  assert (found.vocab_size, found.eos_ids) == (10, {9})
  assert found.decode(range(10)) == "ab"


def test_a_pad_id_in_a_text_is_trained_like_any_other(loaded):
  """Masks come from lengths, so that a pad that is also an end is learnt."""
  pad = loaded["llama"].pad_id
  batch = packing.pack([packing.Sequence(
      tokens=np.array([5, pad, 6, pad], np.int32), prompt=1)], 6)
  np.testing.assert_array_equal(batch.mask_BT, [[1, 1, 1, 0, 0, 0]])
  np.testing.assert_array_equal(batch.targets_BT[0, :3], [pad, 6, pad])


def _streamed(tokenizer, ids, rng):
  stream, shown, at = TextStream(tokenizer), [], 0
  while at < len(ids):
    step = rng.randrange(1, 4)
    shown.append(stream.add(ids[at:at + step]))
    at += step
  return shown, stream.end()


def test_streaming_shows_the_whole_text_and_no_half_characters(made):
  rng, halved = random.Random(3), 0
  for text in hf_cases.texts(4, 300, 60):
    ids = made.encode(text)
    halved += "".join(made.decode([i]) for i in ids) != made.decode(ids)
    shown, rest = _streamed(made, ids, rng)
    assert "".join(shown) + rest == made.decode(ids)
    if "\ufffd" not in text:
      assert not rest and "\ufffd" not in "".join(shown)
  assert halved > 200  # one id at a time shows halves


def test_streaming_hides_control_ids(made):
  eos = min(made.eos_ids)
  for text in hf_cases.texts(8, 50):
    ids = [x for i in made.encode(text) for x in (i, eos)]
    shown, rest = _streamed(made, ids, random.Random(5))
    assert "".join(shown) + rest == made.decode(ids)


# Not byte_fallback, which replaces whole runs of bytes.
@pytest.mark.parametrize(
    "made", [*hf_cases.FAMILIES, "sentencepiece"], indirect=True)
def test_streaming_any_ids(made):
  """Bytes that are no characters are shown too, once that is certain."""
  rng = random.Random(6)
  for _ in range(100):
    ids = [rng.randrange(made.vocab_size) for _ in range(30)]
    shown, rest = _streamed(made, ids, rng)
    assert "".join(shown) + rest == made.decode(ids)


def test_streaming_comes_in_pieces(loaded):
  """It waits for a character, not for the end."""
  ids = loaded["qwen"].encode("🧪a🧪b")
  stream = TextStream(loaded["qwen"])
  shown = [stream.add([i]) for i in ids]
  assert [x for x in shown if x] == ["🧪", "a", "🧪", "b"]
  assert shown[0] == "" and stream.end() == ""


def test_streaming_reads_a_bounded_past(loaded):
  class Counting:
    longest = 0

    def decode(self, ids):
      Counting.longest = max(Counting.longest, len(ids))
      return loaded["qwen"].decode(ids)

  stream = TextStream(Counting())
  ids = loaded["qwen"].encode(hf_cases.ENGLISH * 20)
  assert "".join(stream.add([i]) for i in ids) == hf_cases.ENGLISH * 20
  assert Counting.longest < 10 < len(ids)


def test_pickles(made):
  made.encode_chat("a")
  copy = pickle.loads(pickle.dumps(made))  # noqa: S301
  for name in ("vocab_size", "pad_id", "bos_id", "eos_ids", "chat_template",
               "special_tokens", "control_tokens"):
    assert getattr(copy, name) == getattr(made, name)
  assert copy.encode(hf_cases.WORLD) == made.encode(hf_cases.WORLD)


def test_saved_truncation_and_padding_are_off(tmp_path):
  pieces = hf_cases.pieces()
  pieces.enable_truncation(3)
  pieces.enable_padding(length=50)
  found = hf_tokenizer.load(
      hf_cases.write(tmp_path, pieces, {"eos_token": "<|im_end|>"}))
  for encode in (found.encode, found.encode_chat):
    assert found.decode(encode(hf_cases.ENGLISH)) == hf_cases.ENGLISH
    assert 3 < len(encode(hf_cases.ENGLISH)) < 50


def test_load_decides_by_what_is_there(folders, tmp_path):
  shutil.copy(weights.TOKENIZER, tmp_path / "tokenizer.model")
  want = hf_tokenizer.load(weights.TOKENIZER).encode("x = 12")
  assert hf_tokenizer.load(tmp_path).encode("x = 12") == want
  for path in (folders["qwen"], folders["qwen"] / "tokenizer.json"):
    assert hf_tokenizer.load(str(path)).eos_ids == hf_tokenizer.load(
        folders["qwen"]).eos_ids
  shutil.copytree(folders["qwen"], tmp_path, dirs_exist_ok=True)
  assert isinstance(hf_tokenizer.load(tmp_path), hf_tokenizer.HfTokenizer)


def test_a_workdir_keeps_its_tokenizer(made, loaded, tmp_path):
  tokenizer_lib.keep(made, tmp_path)
  tokenizer_lib.keep(made, tmp_path)
  found = hf_tokenizer.load(tmp_path / tokenizer_lib.FOLDER)
  assert (found.files, found.eos_ids) == (made.files, made.eos_ids)
  before = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  other = loaded["qwen" if made is not loaded["qwen"] else "llama"]
  with pytest.raises(ValueError, match="is another tokenizer; nothing was"):
    tokenizer_lib.keep(other, tmp_path)
  assert before == {
      p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_folder_without_end_or_with_strange_tokens(tmp_path):
  for config, message in (
      ({}, "has no end of sequence"),
      ({"chat_template": [1, {"name": "x"}]}, "has no end of sequence"),
      ({"eos_token": "<|none|>"}, r"special tokens \['<\|none\|>'\].*not in")):
    hf_cases.write(tmp_path, hf_cases.pieces(), config)
    with pytest.raises(ValueError, match=message):
      hf_tokenizer.load(tmp_path)
  for ends in ("</s>", [3, -1], 2.5, True, [[3]], {"a": 3}):
    hf_cases.write(tmp_path, hf_cases.pieces(), {},
                   generation_config={"eos_token_id": ends})
    with pytest.raises(ValueError, match="has eos_token_id=.*give one id"):
      hf_tokenizer.load(tmp_path)


def test_an_end_by_id_alone_and_a_null(tmp_path):
  for ends, want in ((5, {5}), ([5, 6], {5, 6})):
    hf_cases.write(tmp_path, hf_cases.pieces(), {"eos_token": None},
                   generation_config={"eos_token_id": ends})
    assert hf_tokenizer.load(tmp_path).eos_ids == want
  hf_cases.write(tmp_path, hf_cases.pieces(), {"eos_token": "<|im_end|>"},
                 generation_config={"eos_token_id": None})
  assert len(hf_tokenizer.load(tmp_path).eos_ids) == 1


def test_missing_and_malformed_files(folders, tmp_path):
  with pytest.raises(ValueError, match="nowhere cannot be read"):
    hf_tokenizer.load(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="nowhere/tokenizer.json cannot be read"):
    hf_tokenizer.load(tmp_path / "nowhere" / "tokenizer.json")
  with pytest.raises(ValueError, match="neither tokenizer.json nor"):
    hf_tokenizer.load(tmp_path)
  whole = (folders["qwen"] / "tokenizer.json").read_bytes()
  cases = {
      "tokenizer.json is not valid JSON": whole[:len(whole) // 2],
      "tokenizer.json is not a JSON object": b"[1]",
      "tokenizer.json is malformed": b'{"model": {"type": "BPE"}}',
      "tokenizer.json is not valid": b"\xff\xfe",
      r"malformed \('content'\)": b'{"added_tokens": [{"id": 1}]}',
  }
  for message, content in cases.items():
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
      hf_tokenizer.load(tmp_path)
  (tmp_path / "tokenizer.json").write_bytes(whole)
  (tmp_path / "tokenizer_config.json").write_text("{")
  with pytest.raises(ValueError, match="tokenizer_config.json is not valid"):
    hf_tokenizer.load(tmp_path)


def test_files_that_are_no_files_or_no_text(tmp_path):
  def make(name, **others):
    return hf_cases.write(tmp_path / name, hf_cases.pieces(),
                          {"eos_token": "<|im_end|>"}, **others)

  os.mkfifo(make("a") / "generation_config.json")
  os.mkfifo(tmp_path / "a" / "chat_template.jinja")
  hf_tokenizer.load(tmp_path / "a")
  for name in ("tokenizer.json", "tokenizer.model"):
    folder = tmp_path / name.replace(".", "_")
    folder.mkdir()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="neither tokenizer.json nor"):
      hf_tokenizer.load(folder)
    with pytest.raises(ValueError, match="cannot be read .it is a pipe"):
      hf_tokenizer.load(folder / name)
  (make("b") / "chat_template.jinja").write_bytes(b"\xff{{ messages }}")
  with pytest.raises(ValueError, match="chat_template.jinja is not UTF-8"):
    hf_tokenizer.load(tmp_path / "b")
  for text, message in (
      ("[" * 99999, "tokenizer_config.json is not valid JSON: maximum recur"),
      ("version https://git-lfs.github.com/spec/v1\n", "run git lfs pull")):
    (make("c") / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
      hf_tokenizer.load(tmp_path / "c")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("role", ["pad_token", "eos_token"])
def test_a_single_character_as_special_token_stays_text(tmp_path, role, listed):
  """Some models pad with "!"; without its piece a text would lose all of them.
  """
  made = hf_cases.pieces(("<|im_end|>", *"!" * listed))
  ends = {"eos_token": "<|im_end|>"} | {role: "!"}
  found = hf_tokenizer.load(hf_cases.write(tmp_path, made, ends))
  assert found.decode(found.encode("Hi!! x!")) == "Hi!! x!"
  one, = found.encode("!")
  assert one in found.eos_ids | {found.pad_id}
  assert "!" not in found.control_tokens


def test_an_ordinary_word_as_end_is_no_fault_of_the_file(tmp_path):
  """Its piece and all that go on from it are made of smaller ones in texts."""
  made = hf_cases.pieces()
  word = next(t for t in sorted(made.get_vocab()) if t.isascii()
              and t.isalpha() and len(t) == 2)
  found = hf_tokenizer.load(
      hf_cases.write(tmp_path, made, {"eos_token": word}))
  assert found.eos_ids == {made.token_to_id(word)}
  text = "".join(hf_cases.CORPUS) + word
  assert found.decode(found.encode(text)) == text
  assert not found.eos_ids & set(found.encode(text))


@pytest.mark.parametrize("content", ["", " "])
def test_an_empty_special_token_marks_nothing(tmp_path, content):
  made = hf_cases.pieces()
  fields = json.loads(made.to_str())
  fields["added_tokens"].append(
      fields["added_tokens"][0] | {"id": 900, "content": content})
  folder = hf_cases.write(tmp_path, made, {
      "eos_token": "<|im_end|>", "pad_token": ""})
  (folder / "tokenizer.json").write_text(json.dumps(fields))
  found = hf_tokenizer.load(folder)
  text = "a b<|im_end|>"
  assert found.decode(found.encode(text)) == text
  assert found.decode(found.encode_chat(text)) == "a b"
  assert found.pad_id in found.eos_ids


def test_half_a_character_is_named(loaded):
  with pytest.raises(ValueError, match="a lone surrogate, which is no char"):
    loaded["qwen"].encode("x\ud800")


def test_a_vocabulary_that_does_not_fit(loaded):
  size = loaded["qwen"].vocab_size
  tokenizer_lib.check_fits(loaded["qwen"], size)
  with pytest.raises(ValueError, match=f"{size} ids.* only {size - 1}"):
    tokenizer_lib.check_fits(loaded["qwen"], size - 1)


def test_an_end_that_the_model_lacks(tmp_path):
  """generation_config.json may be that of another model."""
  hf_cases.write(tmp_path, hf_cases.pieces(), {"eos_token": "<|im_end|>"},
                 generation_config={"eos_token_id": [3, 9000]})
  found = hf_tokenizer.load(tmp_path)
  tokenizer_lib.check_fits(found, 9001)
  with pytest.raises(ValueError, match=r"ids \[9000\] are not in.* of 8999"):
    tokenizer_lib.check_fits(found, 8999)
