import io
import pathlib
import pickle

import numpy as np
import pytest
import sentencepiece

import r1jax
from r1jax.core.thoughts import TAGS
from r1jax.data.sources import corpus
from r1jax.data.text import templates, tokenizer

SHIPPED = pathlib.Path(
    r1jax.__path__[0], "assets", "arith", "tokenizer.model")
TEXTS = (
    " <think> 17+25=42 42-8=34 </think> <answer> 34 </answer>",
    "two  spaces, a tab\t, a line\nand a trailing one ",
    " naïve 你好 🙂 ﬁ Å",  # NFKC would change the last two.
    "<think><think></answer>x</think>",
    "",
    "▁ \u2581",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "deep" / "t.model"
  tokenizer.train((corpus.document(0, i) for i in range(1500)), 400, path)
  return tokenizer.SentencePieceTokenizer(path)


@pytest.fixture(scope="module")
def shipped():
  if not SHIPPED.exists():
    pytest.skip(f"no {SHIPPED}")
  return tokenizer.SentencePieceTokenizer(SHIPPED)


@pytest.fixture(params=["trained", "shipped"])
def made(request):
  return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_round_trip(made, text):
  assert made.decode(made.encode(text)) == text
  assert made.encode_batch([text, text]) == [made.encode(text)] * 2


def test_the_space_mark_itself_reads_as_a_space(made):
  # SentencePiece's own mark for a space, U+2581, cannot be told from one.
  assert made.decode(made.encode(TEXTS[-1])) == "   "


def test_round_trip_of_the_corpus(made):
  for index in range(300):
    text = corpus.document(9, index)
    assert made.decode(made.encode(text)) == text


def test_tags_are_whole_and_digits_split(made):
  for tag in TAGS:
    assert len(made.encode(tag)) == 1
    # A space and the tag, wherever it stands.
    assert len(made.encode(f" {tag}")) == 2
  for number in range(1000):
    assert len(made.encode(f"={number}")) == 1 + len(str(number))


def test_prompt_and_completion_meet_between_tokens(made):
  prompt = templates.render("What is 1 + 2?")
  for completion in (" <think> 1+2=3", " 3", " The answer"):
    assert made.encode(prompt) + made.encode(completion) == made.encode(
        prompt + completion)


def test_special_ids(made):
  special = [made.pad_id, made.bos_id, *made.eos_ids]
  assert made.pad_id == 0 and len(set(special)) == 3
  assert made.decode([made.bos_id, *made.encode("a b"), *special]) == "a b"
  assert made.decode(np.array(made.encode("a b"))) == "a b"
  assert not set(special) & set(made.encode("<pad> <s> </s> <unk>"))


def test_a_model_without_pad_pads_with_its_end():
  """Llama 2's is one; masks come from lengths."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["ab ab abc"] * 9), model_writer=model,
      vocab_size=12, model_type="bpe", hard_vocab_limit=False, minloglevel=2)
  found = tokenizer.SentencePieceTokenizer(model.getvalue())
  assert {found.pad_id} == found.eos_ids == {2} and found.bos_id == 1


def test_pickles(made):
  copy = pickle.loads(pickle.dumps(made))  # noqa: S301
  assert copy.encode(TEXTS[0]) == made.encode(TEXTS[0])


def test_shipped_prompt_is_short(shipped):
  assert shipped.vocab_size == 512
  assert len(shipped.encode(templates.render(""))) <= 32


def test_missing_and_corrupt_files(tmp_path, trained):
  with pytest.raises(ValueError, match="nowhere.model cannot be read"):
    tokenizer.SentencePieceTokenizer(tmp_path / "nowhere.model")
  for content in (b"", b"not a model", trained.files["tokenizer.model"][:1000]):
    path = tmp_path / "bad.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.model is not a SentencePiece"):
      tokenizer.SentencePieceTokenizer(path)


def test_vocabulary_must_fit(trained):
  tokenizer.check_fits(trained, 400)
  with pytest.raises(ValueError, match="400 ids.* only 399"):
    tokenizer.check_fits(trained, 399)


def test_impossible_vocabulary(tmp_path):
  with pytest.raises(ValueError, match="vocab_size=300"):
    tokenizer.train(["ab"] * 10, 300, tmp_path / "t.model")
