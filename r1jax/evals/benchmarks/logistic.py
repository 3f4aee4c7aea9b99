"""Logistic regression on shares in [0, 1], in float64, for few features.

  minimise  sum_i w_i CE(y_i, sigma(x_i · b)) + l1 |b|_1 + (l2 / 2) |b|^2

CE(y, q) = -y log q - (1 - y) log(1 - q).
"""

from __future__ import annotations

import numpy as np

_STEPS, _SWEEPS, _HALVINGS = 100, 200, 40
_CLOSE = 1e-12


def sigmoid(x: np.ndarray) -> np.ndarray:
  """1 / (1 + exp(-x)), without overflow."""
  return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))


def fit(x_IF: np.ndarray, y_I: np.ndarray, w_I: np.ndarray | None = None, *,
        l1: float = 0.0, l2: float = 0.0) -> np.ndarray:
  """The coefficients b_F by proximal Newton steps.

  Each step minimises the second-order model of the smooth part plus the l1 term
  (by coordinate descent), and is halved until the objective does not rise.

  Args:
    x_IF: features of the observations.
    y_I: shares in [0, 1].
    w_I: weights of the observations; by default 1.
    l1: weight of the absolute values.
    l2: weight of the squares; above 0, coefficients stay finite where the data
      are separable.
  """
  x_IF = np.asarray(x_IF, np.float64)
  y_I = np.asarray(y_I, np.float64)
  w_I = np.ones(len(y_I)) if w_I is None else np.asarray(w_I, np.float64)
  b_F = np.zeros(x_IF.shape[1])
  value = _objective(x_IF, y_I, w_I, b_F, l1, l2)
  for _ in range(_STEPS):
    q_I = sigmoid(x_IF @ b_F)
    g_F = x_IF.T @ (w_I * (q_I - y_I)) + l2 * b_F
    h_FF = (x_IF.T * (w_I * q_I * (1 - q_I))) @ x_IF + l2 * np.eye(len(b_F))
    step_F = _step(g_F, h_FF, b_F, l1)
    for halving in range(_HALVINGS):
      tried_F = b_F + 0.5**halving * step_F
      after = _objective(x_IF, y_I, w_I, tried_F, l1, l2)
      if after <= value:
        break
    else:
      return b_F
    moved = np.abs(tried_F - b_F).max()
    b_F, value = tried_F, after
    if moved < _CLOSE:
      break
  return b_F


def loss(x_IF: np.ndarray, y_I: np.ndarray, b_F: np.ndarray) -> float:
  """The mean cross-entropy of the observations under b_F."""
  z_I = np.asarray(x_IF, np.float64) @ b_F
  return float(np.mean(np.logaddexp(0.0, z_I) - np.asarray(y_I) * z_I))


def _objective(x_IF, y_I, w_I, b_F, l1, l2) -> float:
  z_I = x_IF @ b_F
  return float(w_I @ (np.logaddexp(0.0, z_I) - y_I * z_I)
               + l1 * np.abs(b_F).sum() + 0.5 * l2 * b_F @ b_F)


def _step(g_F: np.ndarray, h_FF: np.ndarray, b_F: np.ndarray, l1: float
          ) -> np.ndarray:
  """argmin_d g·d + d·H·d / 2 + l1 |b + d|_1; coordinate descent if l1 > 0."""
  if not l1:
    return -np.linalg.lstsq(h_FF, g_F)[0]
  d_F = np.zeros_like(b_F)
  for _ in range(_SWEEPS):
    largest = 0.0
    for f, h in enumerate(np.diag(h_FF)):
      if h <= 0:
        continue
      slope = g_F[f] + h_FF[f] @ d_F
      at = b_F[f] + d_F[f]
      target = at - slope / h
      # Soft thresholding.
      target = np.sign(target) * max(abs(target) - l1 / h, 0.0)
      largest = max(largest, abs(target - at))
      d_F[f] += target - at
    if largest < _CLOSE:
      break
  return d_F
