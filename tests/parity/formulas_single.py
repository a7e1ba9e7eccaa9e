"""Kinds of one stream, straight from their formulas: ``h`` the stream, ``s`` the site, ``s.f`` the branch."""

import math

import torch
from hypothesis import strategies as st
from parity_helpers import sigmoid

factor = st.floats(0.3, 1.7)
NORM = st.sampled_from(["pre", "none"])


def each_site(step, gpas_after=True):
    """A formula that only looks at its own site, for a run of sites. Where a norm stands on the sum, the formula itself
    scales the skip by GPAS."""

    def formula(sites, h, last, **options):
        for s in sites:
            h = step(s, h, **options)
            h = s.gpas(h) if gpas_after else h
        return h

    return formula


def read(s, h, norm):
    return s.norm("norm", h) if norm == "pre" else h


def peri(s, h, embedding_norm=False, layer_scalar=False):
    if embedding_norm and s.index == 0:
        h = s.norm("embedding_norm", h)
    h = h + s.norm("norm_out", s.f(s.norm("norm_in", h)))
    return h * s["scalar"] if layer_scalar and s.ends_block else h


def two_norms(s, h):
    return h + s.attention(s.norm("norm", h)) + s.mlp(s.norm("norm_mlp", h))


def norm_add(s, h):
    g = s.norm("norm", h)
    return g + s.f(g)


def b2t(sites, h, last):
    for s in sites:
        if s.begins_block:
            bottom = h
        total = h + s.f(h)
        if s.ends_block:
            total = total + bottom
        h = s.norm("norm", total)
    return h


def keel(s, h, alpha=None):
    f, skip = s.f(s.norm("norm_in", h)), s.gpas(h)
    if s.layer == 0:
        return skip + f if s.sublayer == "attention" else s.norm("norm", skip + f)
    return s.norm("norm", (s.S if alpha is None else alpha) * skip + f)


def scaled(s, h, skip=1.0, branch=1.0, learned=False, per="scalar", norm="pre"):
    a, b = (s["a"], s["b"]) if learned else (skip, branch)
    if learned:
        assert a.shape == b.shape == ((h.shape[-1],) if per == "vector" else (1,))
    return a * h + b * s.f(read(s, h, norm))


def rezero(sites, h, last, norm="none", share="block"):
    for s in sites:
        if share == "site" or s.begins_block or s is sites[0]:
            a = s["a"]
        h = s.gpas(h + a * s.f(read(s, h, norm)))
    return h


def deepnorm(s, h, alpha=None, beta=None):
    return s.norm("norm", ((2 * s.L) ** 0.25 if alpha is None else alpha) * s.gpas(h) + s.f(h))


def admin(s, h, omega=None, learned=False):
    """admin_torch/admin.py: ``calculate_init`` and ``x * omega + f_x`` before the layer norm."""
    change = (s.S + 1) / math.log(s.S + 1) - 1
    omega = s["omega"] if learned else change**0.5 if omega is None else omega
    return s.norm("norm", s.gpas(h) * omega + s.f(h))


def progress(s, schedule, T):
    """Table 5 of arXiv:2603.05369, row by row, with its l from 1."""
    t, l, L = s.t, s.layer + 1, s.L  # noqa: E741
    clip = min(max((t - T * (l - 1)) / T, 0), 1)
    return {
        "linear": min(t / (T * l), 1),
        "linear_sqrt": min(t / (T * l), 1) ** 0.5,
        "linear_square": min(t / (T * l), 1) ** 2,
        "equal": min(t / (T * L), 1),  # its warm-up is T there, and T L for all others: here the same for all
        "reverse": min(t / (T * (L - l + 1)), 1),
        "stagewise_0": clip,
        "stagewise_L": clip * (1 - 1 / L) + 1 / L,
        "stagewise_sqrt_l": clip * (1 - 1 / l**0.5) + 1 / l**0.5,
    }[schedule]


def prores(sites, h, last, schedule="linear", warmup_steps=None, norm="pre"):
    """Table 1 there."""
    for s in sites:
        a = progress(s, schedule, 1000 if warmup_steps is None else warmup_steps / s.L)
        if norm == "post":
            h = s.norm("norm", s.gpas(h) + a * s.f(h))
        elif norm == "deepnorm":
            h = s.norm("norm", (2 * s.L) ** 0.25 * s.gpas(h) + a * s.f(h))
        elif norm == "sandwich":
            h = s.gpas(h + a * s.norm("norm_out", s.f(s.norm("norm_in", h))))
        else:
            h = s.gpas(h + a * s.f(s.norm("norm", h) / ((s.layer + 1) ** 0.5 if norm == "lns" else 1)))
    return h


def gate_of(s, name, h, shape):
    weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
    if shape == "diagonal":
        return sigmoid(weight * h + bias)
    assert weight.shape == ((h.shape[-1], h.shape[-1]) if shape == "full" else (1, h.shape[-1]))
    return sigmoid(h @ weight.T + bias)


def highway(s, h, bias=-2.0, coupled=True, gate="full", norm="pre"):
    t = gate_of(s, "transform", h, gate)
    c = 1 - t if coupled else gate_of(s, "carry", h, gate)
    return t * s.f(read(s, h, norm)) + c * h


def gtrxl(s, h, gate="gru", bias=None):
    y = torch.relu(s.f(s.norm("norm", h)))
    if gate == "input":
        return sigmoid(h @ s["w"].T) * h + y
    if gate == "output":
        return h + sigmoid(h @ s["w"].T - s["b"]) * y
    if gate == "highway":
        g = sigmoid(h @ s["w"].T + s["b"])
        return g * h + (1 - g) * y
    if gate == "sigtanh":
        return h + sigmoid(y @ s["w"].T - s["b"]) * torch.tanh(y @ s["u"].T)
    r = sigmoid(y @ s["w_r"].T + h @ s["u_r"].T)
    z = sigmoid(y @ s["w_z"].T + h @ s["u_z"].T - s["b"])
    return (1 - z) * h + z * torch.tanh(y @ s["w"].T + (r * h) @ s["u"].T)


def gru(s, h, norm="none"):
    x = s.f(read(s, h, norm)) @ s["cell.weight_ih"].T + s["cell.bias_ih"]
    k = h @ s["cell.weight_hh"].T + s["cell.bias_hh"]
    d = h.shape[-1]
    r = sigmoid(x[..., :d] + k[..., :d])
    z = sigmoid(x[..., d : 2 * d] + k[..., d : 2 * d])
    return (1 - z) * torch.tanh(x[..., 2 * d :] + r * k[..., 2 * d :]) + z * h


def gated(s, h, gate="vector", data=False, init=0.5):
    g = s["bias"]
    assert g.shape == ((h.shape[-1],) if gate == "vector" else (1,))
    if data:
        g = g + h @ s["weight"].T
    return h + sigmoid(g) * s.f(s.norm("norm", h))


def orthogonal(s, h):
    f = s.f(s.norm("norm", h))
    return h + f - (f * h).sum(-1, keepdim=True) / (h * h).sum(-1, keepdim=True) * h


def laurel(s, h, rank=16, mode="rw+lr", bound="softmax", init=None):
    f, a, b = s.f(s.norm("norm", h)), 1, 1
    if "rw" in mode:
        a, b = sigmoid(s["weights"]) if bound == "sigmoid" else s["weights"].exp() / s["weights"].exp().sum()
    if "lr" in mode:
        h = (h @ s["down"].T) @ s["up"].T + h
    return a * f + b * h


SINGLE = {
    "plain": lambda s, h, norm="pre": s.f(read(s, h, norm)),
    "pre": lambda s, h: h + s.f(s.norm("norm", h)),
    "post": lambda s, h: s.norm("norm", s.gpas(h) + s.f(h)),
    "res_post": lambda s, h: h + s.norm("norm", s.f(h)),
    "peri": peri,
    "sandwich": peri,
    "depth_sandwich": lambda s, h, attention=0.283, mlp=0.432: peri(s, h),
    "two_norms": two_norms,
    "norm_add": norm_add,
    "keel": keel,
    "sub_ln": lambda s, h: h + s.f(s.norm("norm", h)),
    "scaled": scaled,
    "granite": lambda s, h, multiplier=0.22: h + multiplier * s.f(s.norm("norm", h)),
    "minicpm": lambda s, h, scale_depth=1.4: h + scale_depth / s.L**0.5 * s.f(s.norm("norm", h)),
    "sqrt_depth": lambda s, h: h + s.f(s.norm("norm", h)) / s.S**0.5,
    "completep": lambda s, h, base_depth=1: h + base_depth / s.L * s.f(s.norm("norm", h)),
    "layerscale": lambda s, h, init=None: h + s["v"] * s.f(s.norm("norm", h)),
    "deepnorm": deepnorm,
    "admin": admin,
    "lns": lambda s, h: h + s.f(s.norm("norm", h) / (s.layer + 1) ** 0.5),
    "highway": highway,
    "gtrxl": gtrxl,
    "gru": gru,
    "gated": gated,
    "orthogonal": orthogonal,
    "projection": lambda s, h: h @ s["weight"].T + s.f(s.norm("norm", h)),
    "laurel": laurel,
}
NORMS_SUM = {"post", "keel", "deepnorm", "admin"}
FORMULAS = {name: each_site(step, name not in NORMS_SUM) for name, step in SINGLE.items()}
FORMULAS |= {"b2t": b2t, "rezero": rezero, "prores": prores}
SCHEDULES = [
    "linear", "linear_sqrt", "linear_square", "equal", "reverse", "stagewise_0", "stagewise_L", "stagewise_sqrt_l"
]  # fmt: skip
PLACEMENTS = ["pre", "post", "sandwich", "deepnorm", "lns"]
OPTIONS = {
    "plain": {"norm": NORM},
    "peri": {"embedding_norm": st.booleans(), "layer_scalar": st.booleans()},
    "depth_sandwich": {"attention": factor, "mlp": factor},
    "admin": {"omega": st.none() | factor, "learned": st.booleans()},
    "sandwich": {"embedding_norm": st.booleans(), "layer_scalar": st.booleans()},
    "keel": {"alpha": factor},
    "scaled": {"skip": factor, "branch": factor, "learned": st.booleans(),
               "per": st.sampled_from(["scalar", "vector"]), "norm": NORM},
    "granite": {"multiplier": factor},
    "minicpm": {"scale_depth": factor},
    "completep": {"base_depth": st.integers(1, 3)},
    "rezero": {"norm": NORM, "share": st.sampled_from(["block", "site"])},
    "layerscale": {"init": factor},
    "deepnorm": {"alpha": factor, "beta": factor},
    "prores": {"schedule": st.sampled_from(SCHEDULES), "warmup_steps": st.none() | st.integers(1, 9000),
               "norm": st.sampled_from(PLACEMENTS)},
    "highway": {"bias": st.floats(-3, -1), "coupled": st.booleans(), "norm": NORM,
                "gate": st.sampled_from(["full", "diagonal", "scalar"])},
    "gtrxl": {"gate": st.sampled_from(["gru", "input", "output", "highway", "sigtanh"]), "bias": factor},
    "gru": {"norm": NORM},
    "gated": {"gate": st.sampled_from(["vector", "scalar"]), "data": st.booleans(), "init": st.floats(0.1, 0.9)},
    "laurel": {"rank": st.integers(1, 16), "mode": st.sampled_from(["rw", "lr", "rw+lr"]),
               "bound": st.sampled_from(["softmax", "sigmoid"]), "init": st.floats(0.1, 0.9)},
}  # fmt: skip
