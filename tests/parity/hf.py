"""The torch side: models of transformers with wide random weights."""

import contextlib
import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Of models this small, threads only wait for each other.
torch.set_num_threads(1)
# The plain implementations; others want sizes that are multiples of 16.
PLAIN = dict(attn_implementation="eager", experts_implementation="eager")


# What transformers calls families that it knows by another name.
NATIVE = {"kimi_k2": "deepseek_v3"}


def rename(folder, family):
  """Gives a folder's config.json the family's name."""
  path = folder / "config.json"
  fields = json.loads(path.read_text())
  path.write_text(json.dumps(fields | {"model_type": family}))


def make(family, fields, seed=0):
  """A float32 model in which every parameter and buffer matters."""
  # transformers adds to the dict that it is given.
  config = transformers.AutoConfig.for_model(
      NATIVE.get(family, family), **json.loads(json.dumps(fields)))
  torch.manual_seed(seed)
  model = transformers.AutoModelForCausalLM.from_config(
      config, dtype=torch.float32, **PLAIN).eval()
  state = model.state_dict()
  with torch.no_grad():
    for name in sorted(state):
      drawn = torch.randn(state[name].shape)
      if "norm" in name:  # gains about 1, of which Gemma keeps what is beyond
        drawn = (family != "gemma3_text") + 0.3 * drawn
      else:
        drawn *= 0.1 if "correction_bias" in name else 0.25
      state[name].copy_(drawn)
  return model


def load(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32, **PLAIN).eval()


@contextlib.contextmanager
def _routers(model):
  """Lists what each router chose, [tokens, A], layer by layer."""
  chosen = []
  hooks = [
      module.register_forward_hook(
          lambda module, inputs, out: chosen.append(out[2].numpy().copy()))
      for module in model.modules()
      if type(module).__name__.lower().endswith("topkrouter")]
  yield chosen
  for hook in hooks:
    hook.remove()


def logits(model, tokens_BT):
  """float32 [B, T, V] on the host."""
  with torch.no_grad():
    return model(torch.as_tensor(tokens_BT), use_cache=False).logits.numpy()


def logits_and_experts(model, tokens_BT):
  """(logits, experts [B, T, L, A] in ascending order, or None)."""
  with _routers(model) as chosen:
    out = logits(model, tokens_BT)
  if not chosen:
    return out, None
  return out, np.sort(np.stack(chosen, 1), -1).reshape(
      *tokens_BT.shape, len(chosen), -1)


def gradients(model, tokens_BT):
  """Of the mean next-token loss, by the names of the checkpoint's tensors."""
  tokens = torch.as_tensor(tokens_BT).long()
  model.zero_grad()
  out = model(tokens, use_cache=False).logits[:, :-1]
  torch.nn.functional.cross_entropy(
      out.flatten(0, 1), tokens[:, 1:].flatten()).backward()
  found = {}
  for name, parameter in model.named_parameters():
    found |= _stored(name, parameter.grad.numpy())
  return found


def _stored(name, grad):
  """transformers keeps experts in one array, checkpoints each by itself."""
  match = re.fullmatch(r"(.*\.experts\.)(gate_up|down)_proj", name)
  if not match:
    return {name: grad}
  prefix, kind = match.groups()
  if kind == "down":
    return {f"{prefix}{e}.down_proj.weight": g for e, g in enumerate(grad)}
  found = {}
  for e, both in enumerate(grad):
    gate, up = np.split(both, 2)
    found |= {f"{prefix}{e}.gate_proj.weight": gate,
              f"{prefix}{e}.up_proj.weight": up}
  return found


def generate(model, prompts_BP, new):
  """Greedy continuations, int [B, new]; nothing ends them early."""
  model.generation_config.eos_token_id = None
  ids = torch.as_tensor(prompts_BP)
  out = model.generate(
      ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
      do_sample=False, pad_token_id=0)
  return out[:, ids.shape[1]:].numpy()


def mtp_logits(folder, tokens_BT):
  """What predicts the token after the next, float32 [B, T-1, V].

  transformers runs the module only inside generate(); its layer is called here
  on whole rows. Positions are counted from the next token, as it counts them.
  """
  modeling = pytest.importorskip("transformers.modeling_layers")
  if not hasattr(modeling, "MtpModel"):
    pytest.skip("this version of transformers has no MTP module")
  model = load(folder)
  # It finds the tensors by the number of layers of the published model.
  model._keys_to_ignore_on_load_unexpected = [
      rf"model\.layers\.{model.config.num_hidden_layers}\..*"]
  mtp = modeling.MtpModel.from_pretrained(model).eval()
  tokens, t = torch.as_tensor(tokens_BT), tokens_BT.shape[1] - 1
  future = torch.full((t, t), float("-inf")).triu(1)[None, None]
  with torch.no_grad():
    hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
    inputs = mtp.embed_tokens(tokens[:, 1:])
    positions = torch.arange(1, t + 1)[None]
    out = mtp.layers[0](
        inputs, hidden, position_ids=positions, attention_mask=future,
        position_embeddings=mtp.rotary_emb(inputs, position_ids=positions),
        past_key_values=None)
    return mtp.shared_head(out).numpy()
