"""lm-evaluation-harness on a folder: our model beside the harness's own."""

import json

import numpy as np
import pytest

from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("torch")
pytest.importorskip("accelerate")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from r1jax.models.compute import Compute  # noqa: E402
from r1jax.stages import weights  # noqa: E402
from r1jax.stages.harness import (  # noqa: E402
  Harness,
  HarnessConfig,
  language_model,
)
from tests.stages import harness_cases  # noqa: E402

PARITY = dict(rtol=0, atol=1e-4)
CHOICES = """\
task: own_choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ANSWERS = """\
task: own_answers
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """By family (ours, theirs), and the folder of the first."""
  made, first = {}, None
  for name in harness_cases.FAMILIES:
    folder, _ = harness_cases.folder(tmp_path_factory.mktemp(name), name)
    first = first or folder
    policy, tokenizer = weights.with_tokenizer(f"hf:{folder}", Compute())
    made[name] = (
        language_model(Harness(policy, tokenizer, HarnessConfig(tokens=512)),
                       name),
        HFLM(pretrained=str(folder), device="cpu", dtype="float32",
             batch_size=2))
  return made, first


def asked(kind, requests):
  return [Instance(kind, {}, args, i) for i, args in enumerate(requests)]


@pytest.mark.parametrize("family", harness_cases.FAMILIES)
def test_likelihoods_are_those_of_its_own_model(models, family):
  ours, theirs = models[0][family]
  pairs = [pair for pair in harness_cases.PAIRS if pair[0].strip() or not
           pair[0]]
  found, expected = (model.loglikelihood(asked("loglikelihood", pairs))
                     for model in (ours, theirs))
  np.testing.assert_allclose(
      [x for x, _ in found], [x for x, _ in expected], **PARITY)
  assert [x for _, x in found] == [x for _, x in expected]
  texts = [("A word.",), (harness_cases.LONG,), ("你好，世界",)]
  np.testing.assert_allclose(*(
      model.loglikelihood_rolling(asked("loglikelihood_rolling", texts))
      for model in (ours, theirs)), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("family", harness_cases.FAMILIES)
def test_generations_are_those_of_its_own_model(models, family):
  ours, theirs = models[0][family]
  requests = [(text, {"until": ["\n"], "max_gen_toks": 8, "do_sample": False})
              for text in ("What is 3 + 4?", "Answer:", "one two three")]
  found, expected = (model.generate_until(asked("generate_until", requests))
                     for model in (ours, theirs))
  assert found == expected and any(found)
  chat = [{"role": "user", "content": "What is 3 + 4?"}]
  assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)


def test_tasks_of_our_own_by_the_command(models, tmp_path):
  rows = tmp_path / "rows.jsonl"
  rows.write_text("".join(json.dumps({
      "question": f"What is {i} + 4?", "choices": [f" {i + 4}", " 99", " no"],
      "answer": 0}) + "\n" for i in range(6)))
  for name, text in (("choices", CHOICES), ("answers", ANSWERS)):
    (tmp_path / f"{name}.yaml").write_text(text.format(rows=rows))
  made, folder = models
  shared = [f"--init=hf:{folder}", f"--include_path={tmp_path}", "--tokens=512",
            "--tasks=own_choices,own_answers"]
  plain, chat, none = calls(
      "experiments.harness", [*shared, f"--out={tmp_path / 'plain'}"],
      [*shared, f"--out={tmp_path / 'chat'}", "--chat", "--limit=2"],
      [f"--init=hf:{folder}"])
  assert "own_choices" in succeeds(plain) and "own_answers" in succeeds(chat)
  fails(none, "--tasks=NAME")
  told = json.loads((tmp_path / "plain/result.json").read_text())
  theirs = lm_eval.simple_evaluate(
      model=made["qwen"][1], tasks=["own_choices", "own_answers"],
      task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path)))
  for task, results in theirs["results"].items():
    for metric in ("acc,none", "acc_norm,none", "exact_match,none"):
      if metric in results:
        assert told["results"][task][metric] == results[metric]
  assert json.loads((tmp_path / "chat/result.json").read_text())["n-samples"][
      "own_choices"]["effective"] == 2
