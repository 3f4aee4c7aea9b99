"""A decoder of DeepSeek-V2/V3 or Qwen2, written from the equations, float64.

One row, one token, one layer at a time; `params` is the model's own tree with
float64 leaves. `drop` names terms to leave out, so that tests can show that
each of them counts.
"""

import math

import numpy as np

from tests.reference import attention, experts, mla, rope, router
from tests.reference.norms import rms_norm


def _frequencies(cfg, drop):
  r = cfg.rope
  dim = cfg.rope_dim if cfg.attention == "mla" else cfg.head_dim
  if "rope" in drop:
    return np.zeros(dim // 2)
  if r.scaling == "yarn" and cfg.max_position > r.original and (
      "yarn" not in drop):
    return rope.yarn(dim, r.theta, r.factor, r.original, r.beta_fast,
                     r.beta_slow)
  return rope.frequencies(dim, r.theta)


def _turn(turn, v, position, cfg, drop):
  """A rotated vector, times YaRN's factor on cos and sin."""
  r, turned = cfg.rope, turn(v, position, _frequencies(cfg, drop))
  if r.scaling == "yarn" and cfg.max_position > r.original and (
      "attention_factor" not in drop):
    return turned * r.attention_factor
  return turned


def _scale(cfg, drop):
  if cfg.attention == "gqa":
    return 1 / math.sqrt(cfg.head_dim)
  scale = 1 / math.sqrt(cfg.nope_dim + cfg.rope_dim)
  r = cfg.rope
  if r.scaling == "yarn" and cfg.max_position > r.original and (
      "mscale" not in drop):
    scale *= (0.1 * r.mscale * math.log(r.factor) + 1) ** 2
  return scale


def _allowed(segments):
  t_len = len(segments)
  return [[s in attention.visible(segments, t) for s in range(t_len)]
          for t in range(t_len)]


def _norm(x, gain, cfg, drop, name):
  return x if name in drop else rms_norm(x, gain, cfg.norm_eps)


def mla_layer(p, x, cfg, positions, segments, drop):
  u, c = cfg.nope_dim, cfg.kv_rank
  t_len, n_heads = len(x), cfg.n_heads
  if cfg.q_rank:
    c_q = _norm(x @ p["w_dq"], p["q_norm"], cfg, drop, "q_norm")
    w_q = p["w_uq"]
  else:
    c_q, w_q = x, p["w_q"]
  q_nope = np.empty((t_len, n_heads, u))
  q_rope = np.empty((t_len, n_heads, cfg.rope_dim))
  for t in range(t_len):
    for n in range(n_heads):
      q = c_q[t] @ w_q[:, n]
      q_nope[t, n] = q[:u]
      q_rope[t, n] = _turn(rope.turn_pairs, q[u:], positions[t], cfg, drop)
  down = x @ p["w_dkv"]
  latent = _norm(down[:, :c], p["kv_norm"], cfg, drop, "kv_norm")
  k_rope = np.array([
      _turn(rope.turn_pairs, down[t, c:], positions[t], cfg, drop)
      for t in range(t_len)])
  out = mla.mla(q_nope, q_rope, latent, k_rope, p["w_ukv"], _allowed(segments),
                _scale(cfg, drop))
  return sum(out[:, n] @ p["w_o"][n] for n in range(n_heads))


def gqa_layer(p, x, cfg, positions, segments, drop):
  def project(name, heads, turn):
    y = np.empty((len(x), heads, cfg.head_dim))
    for t in range(len(x)):
      for n in range(heads):
        v = x[t] @ p[f"w_{name}"][:, n]
        if cfg.qkv_bias and "qkv_bias" not in drop:
          v = v + p[f"b_{name}"][n]
        if cfg.qk_norm and turn:
          v = _norm(v, p[f"{name}_norm"], cfg, drop, f"{name}_norm")
        y[t, n] = _turn(rope.turn_halves, v, positions[t], cfg, drop) if (
            turn) else v
    return y

  out = attention.gqa(
      project("q", cfg.n_heads, True), project("k", cfg.n_kv_heads, True),
      project("v", cfg.n_kv_heads, False), _allowed(segments),
      _scale(cfg, drop))
  y = sum(out[:, n] @ p["w_o"][n] for n in range(cfg.n_heads))
  return y + p["b_o"] if cfg.o_bias and "o_bias" not in drop else y


def _mixture(p, x, bias, cfg, drop):
  bias = np.zeros_like(bias) if "bias" in drop else bias
  normalize = cfg.normalize_gates and "normalize" not in drop
  route_scale = 1.0 if "route_scale" in drop else cfg.route_scale
  y, chosen_of_token = np.zeros_like(x), []
  for t in range(len(x)):
    s = router.scores(x[t] @ p["w_router"], cfg.score)
    chosen = router.select(
        s, bias if cfg.selection_bias else None, cfg.n_activated, cfg.n_groups,
        cfg.n_limited_groups)
    gates = router.weights(s, chosen, normalize, route_scale)
    y[t] = experts.routed(x[t:t + 1], [chosen], [gates], p["w_gate"],
                          p["w_up"], p["w_down"])[0]
    chosen_of_token.append(chosen)
  if cfg.n_shared and "shared" not in drop:
    s = p["shared"]
    y = y + experts.swiglu(x, s["w_gate"], s["w_up"], s["w_down"])
  return y, chosen_of_token


def block(p, x, bias, cfg, positions, segments, mixture, drop=()):
  """x + attention(norm x), then + feed-forward(norm x); and chosen experts."""
  attend = mla_layer if cfg.attention == "mla" else gqa_layer
  x = x + attend(p["attn"], _norm(x, p["norm_1"], cfg, drop, "norm_1"), cfg,
                 positions, segments, drop)
  h = _norm(x, p["norm_2"], cfg, drop, "norm_2")
  if mixture:
    y, chosen = _mixture(p["ffn"], h, bias, cfg, drop)
    return x + y, chosen
  f = p["ffn"]
  return x + experts.swiglu(h, f["w_gate"], f["w_up"], f["w_down"]), None


def layer(tree, i):
  if isinstance(tree, dict):
    return {name: layer(sub, i) for name, sub in tree.items()}
  return tree[i]


def forward(params, bias_LE, cfg, tokens, positions, segments, drop=()):
  """One row -> (hidden after the final norm [T, D], experts [T][L][A])."""
  x = np.array([params["embed"][t] for t in tokens])
  n_mixture = cfg.n_layers - cfg.n_dense_layers if cfg.n_experts else 0
  for i in range(cfg.n_layers - n_mixture):
    x, _ = block(layer(params["dense_blocks"], i), x, None, cfg, positions,
                 segments, False, drop)
  chosen_of_layer = []
  for i in range(n_mixture):
    x, chosen = block(layer(params["mixture_blocks"], i), x, bias_LE[i], cfg,
                      positions, segments, True, drop)
    chosen_of_layer.append(chosen)
  hidden = _norm(x, params["norm"], cfg, drop, "norm")
  chosen = [[layer[t] for layer in chosen_of_layer] for t in range(len(tokens))]
  return hidden, chosen


def mtp(params, bias_E, cfg, hidden, next_tokens, positions, segments, drop=()):
  """One row -> hidden [T, D]; `drop` may hold "order" to swap the halves."""
  p = params["mtp"]
  e = _norm(np.array([params["embed"][t] for t in next_tokens]), p["e_norm"],
            cfg, drop, "e_norm")
  h = _norm(hidden, p["h_norm"], cfg, drop, "h_norm")
  halves = [h, e] if "order" in drop else [e, h]
  x = np.concatenate(halves, -1) @ p["w_join"]
  x, _ = block(p["block"], x, bias_E, cfg, positions, segments,
               bool(cfg.n_experts), drop)
  return _norm(x, p["norm"], cfg, drop, "mtp_norm")
