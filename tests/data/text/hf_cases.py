"""Small tokenizers as open models ship them: folders of their files."""

import functools
import json
import random

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

ENGLISH = "The quick brown fox thinks: 12 + 30 = 42, doesn't it? "
WORLD = "naïve Ärger 你好世界 мир שלום मानक 🙂👩‍👩‍👧 ﬁ Å"
CORPUS = [ENGLISH * 3, WORLD, "<think> so </think> <answer> 42 </answer>\n"] * 4

# Small templates of our own in the manner of three families.
QWEN = """\
{%- if messages[0].role == 'system' %}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% else %}
<|im_start|>system
Be helpful.<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if loop.first and message.role == 'system' %}{% continue %}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
LLAMA = """\
{{- bos_token }}
{%- set ns = namespace(turns=0) %}
{%- for message in messages %}
    {%- set ns.turns = ns.turns + 1 %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- generation %}
    {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endgeneration %}
{%- endfor %}
{%- if tools is not none %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
DEEPSEEK = """\
{{ bos_token }}{% set dates = strftime_now('%Y') | length %}
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content }}
{%- elif message.role == 'user' %}{{ '<｜User｜>' + message.content }}
{%- else %}
{{- '<｜Assistant｜' }}>{{ message.content.rpartition('</think>') | last }}
{{- eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}
"""


def pieces(control=("<|im_start|>", "<|im_end|>", "<|endoftext|>"), other=(),
           bos=None):
  """A byte-level BPE of at most 512 ids; `bos` begins what it encodes."""
  made = tokenizers.Tokenizer.from_str(_trained())
  made.add_special_tokens(list(control))
  made.add_tokens([tokenizers.AddedToken(t, special=False, normalized=False)
                   for t in (*other, "<think>", "</think>")])
  if bos:
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))])
  return made


@functools.cache
def _trained():
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.train_from_iterator(CORPUS, trainers.BpeTrainer(
      vocab_size=500, show_progress=False,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
  return made.to_str()


def write(folder, made, config, **others):
  """The folder with tokenizer.json, its config and other JSON files."""
  folder.mkdir(parents=True, exist_ok=True)
  made.save(str(folder / "tokenizer.json"))
  config = {"tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False} | config
  for name, fields in {"tokenizer_config": config, **others}.items():
    (folder / f"{name}.json").write_text(json.dumps(fields))
  return folder


def qwen(folder):
  """No bos; a pad of its own; two ends, one of them the generation config's."""
  return write(
      folder, pieces(), {
          "bos_token": None, "eos_token": "<|im_end|>",
          "pad_token": "<|endoftext|>", "add_bos_token": False,
          "chat_template": QWEN, "added_tokens_decoder": {}},
      special_tokens_map={"eos_token": "<never read>"},
      generation_config={"bos_token_id": 7, "eos_token_id": [
          pieces().token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")]})


def llama(folder):
  """bos by the post-processor; no pad; the template in a file of its own."""
  control = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
             "<|eot_id|>")
  write(folder, pieces(control, bos="<|begin_of_text|>"), {
      "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})
  (folder / "chat_template.jinja").write_text(LLAMA)
  return folder


def deepseek(folder):
  """bos by add_bos_token; pad is the end; speakers are not marked special."""
  control = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
  token = {"lstrip": False, "normalized": True, "rstrip": False,
           "single_word": False}
  return write(folder, pieces(control, ("<｜User｜>", "<｜Assistant｜>"),
                              bos=control[0]), {
      "add_bos_token": True, "chat_template": [
          {"name": "tool_use", "template": "no"},
          {"name": "default", "template": DEEPSEEK}],
      "bos_token": token | {"__type": "AddedToken", "content": control[0]},
      "eos_token": "<never read>"},
      special_tokens_map={"pad_token": token | {"content": control[1]},
                          "eos_token": token | {"content": control[1]}})


FAMILIES = {"qwen": qwen, "llama": llama, "deepseek": deepseek}


def texts(seed, count, longest=24):
  """Random text of every kind of character, surrogates left out."""
  rng = random.Random(seed)
  kinds = [lambda: rng.randrange(128), lambda: rng.randrange(0x80, 0x800),
           lambda: rng.randrange(0x4E00, 0x9FFF),
           lambda: rng.randrange(0x1F300, 0x1FAFF),
           lambda: rng.choice([0x200D, 0xFE0F, 0x301, 0xFFFD, 0x2581, 32, 10])]
  for _ in range(count):
    yield "".join(chr(rng.choice(kinds)()) for _ in range(
        rng.randrange(longest)))
