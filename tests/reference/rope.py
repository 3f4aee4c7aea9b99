"""Rotary embedding as complex numbers, float64."""

import math

import numpy as np


def frequencies(dim, theta):
  return np.array([theta ** (-2 * i / dim) for i in range(dim // 2)])


def yarn_bounds(dim, theta, original, beta_fast, beta_slow):
  """First and last dimension of the blend."""
  def dimension(turns):
    return dim * math.log(original / (2 * math.pi * turns)) / (
        2 * math.log(theta))
  return (max(math.floor(dimension(beta_fast)), 0),
          min(math.ceil(dimension(beta_slow)), dim - 1))


def yarn(dim, theta, factor, original, beta_fast, beta_slow):
  low, high = yarn_bounds(dim, theta, original, beta_fast, beta_slow)
  out = []
  for i in range(dim // 2):
    f = theta ** (-2 * i / dim)
    if i <= low:
      out.append(f)
    elif i >= high:
      out.append(f / factor)
    else:
      r = (i - low) / (high - low)
      out.append(f * (1 - r) + f / factor * r)
  return np.array(out)


def llama3(dim, theta, factor, original, low_factor, high_factor):
  out = []
  for i in range(dim // 2):
    f = theta ** (-2 * i / dim)
    turns = original * f / (2 * math.pi)
    if turns < low_factor:
      out.append(f / factor)
    elif turns > high_factor:
      out.append(f)
    else:
      s = (turns - low_factor) / (high_factor - low_factor)
      out.append((1 - s) * f / factor + s * f)
  return np.array(out)


def turn_pairs(v, position, freqs):
  """Adjacent pairs of the vector as complex numbers times e^(i p f)."""
  out = np.empty(len(v))
  for i, f in enumerate(freqs):
    z = complex(v[2 * i], v[2 * i + 1]) * np.exp(1j * position * f)
    out[2 * i], out[2 * i + 1] = z.real, z.imag
  return out


def turn_halves(v, position, freqs):
  """The pairs are (i, i + dim/2)."""
  half = len(v) // 2
  out = np.empty(len(v))
  for i, f in enumerate(freqs):
    z = complex(v[i], v[half + i]) * np.exp(1j * position * f)
    out[i], out[half + i] = z.real, z.imag
  return out
