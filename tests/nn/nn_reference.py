"""The units written once more, one step and one unit at a time, in NumPy from the published equations."""

import cmath
import math

import numpy as np


def relu(v):
    return np.maximum(v, 0)


def affine(p, name, x):
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def threshold(p, x):
    return abs(affine(p, "threshold", x)) if "threshold.weight" in p else abs(p["threshold"])


def bmru(p, x, s, epsilon=0.0, levels=None):
    c, beta, new = affine(p, "candidate", x), threshold(p, x), s.copy()
    for n in range(len(s)):
        if abs(c[n]) >= beta[n]:
            new[n] = (1 if c[n] >= 0 else -1) + epsilon * s[n]
        if levels is not None:
            new[n] = min(max(new[n], -levels), levels)
    return p["gain"] * new, new


def cmru(p, x, s, levels=None):
    return bmru(p, x, s, epsilon=1.0, levels=levels)


def alpha_cmru(p, x, s, rails=math.inf):
    c, beta, a = affine(p, "candidate", x), threshold(p, x), abs(affine(p, "amplitude", x))
    new = np.array([s[n] + a[n] * np.sign(c[n]) if abs(c[n]) >= beta[n] else s[n] for n in range(len(s))])
    new = np.clip(new, -rails, rails)
    return new, new


def fq_bmru(p, x, s, epsilon=0.0):
    """x is the signed input: the inner relu is part of the equation."""
    c, new = relu(affine(p, "candidate", relu(x))), s.copy()
    for n in range(len(s)):
        low = p["threshold_low"][n]
        if c[n] >= low + p["width"][n]:
            new[n] = 1 + epsilon * s[n]
        elif c[n] < low:
            new[n] = epsilon * s[n]
    return p["gain"] * new, new


def min_gru(p, x, s):
    z = 1 / (1 + np.exp(-affine(p, "gate", x)))
    new = (1 - z) * s + z * affine(p, "candidate", x)
    return new, new


def gru(p, x, s):
    size = len(s)
    fed, kept = affine(p, "input", x), affine(p, "recurrent", s)
    r, z = (1 / (1 + np.exp(-(fed[part] + kept[part]))) for part in (slice(size), slice(size, 2 * size)))
    new = (1 - z) * np.tanh(fed[2 * size :] + r * kept[2 * size :]) + z * s
    return new, new


def lru(p, x, s):
    new = np.zeros(len(s), dtype=complex)
    for n in range(len(s)):
        eigenvalue = cmath.exp(complex(-math.exp(p["nu_log"][n]), math.exp(p["theta_log"][n])))
        drive = (p["B_re"][n] + 1j * p["B_im"][n]) @ x
        new[n] = eigenvalue * s[n] + math.exp(p["gamma_log"][n]) * drive
    return ((p["C_re"] + 1j * p["C_im"]) @ new).real + p["D"] @ x + p["bias"], new


def run(step, p, x, s, **options):
    """x [T, I], s [N] -> (h [T, N], s [T, N])."""
    outputs, states = [], []
    for frame in x:
        h, s = step(p, frame, s, **options)
        outputs.append(h)
        states.append(s)
    return np.array(outputs), np.array(states)


def parameters(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
