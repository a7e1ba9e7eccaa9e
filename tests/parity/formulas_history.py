"""Kinds whose state is more than one stream, straight from their formulas: histories, lanes, several streams.

A formula gets the sites of one run, the stream ``h`` that enters, and whether the stack ends with this run; it gives
the stream that leaves.
"""

import itertools
import math

import torch
from hypothesis import strategies as st
from parity_helpers import rms, sigmoid


def x0_mix(sites, h, last, init="identity", backout=False):
    x0, first, blocks = h, sites[0].layer, sites[-1].layer - sites[0].layer + 1
    if init == "nanochat":
        x0 = sites[0].norm("norm_x0", h)
        h = x0 if sites[0].index == 0 else h
    for s in sites:
        if s.begins_block:
            h = s["a"] * h + s["b"] * x0
        h = h + s.f(s.norm("norm", h))
        if s.ends_block and s.layer - first == blocks // 2:
            middle = h
    return h - sites[-1]["w"] * middle if last and backout else h


def concat(sites, h, last, growth=None, bottleneck=None):
    def read(s, name, everything):
        if bottleneck is None:
            return everything @ s[f"{name}.weight"].T
        return everything @ s[f"{name}.0.weight"].T @ s[f"{name}.1.weight"].T

    everything = h
    for s in sites:
        f = s.f(s.norm("norm", read(s, "reader", everything)))
        everything = torch.cat([everything, f @ s["grow.weight"].T], -1)
    return read(sites[-1], "exit_reader", everything)


def denseformer(sites, h, last, dilation=1, period=1):
    outputs = [h]
    for s in sites:
        h = h + s.f(s.norm("norm", h))
        if s.ends_block:
            outputs.append(h)
            done = len(outputs) - 1
            if done % period == 0:
                sources = [j for j in range(done + 1) if (done - j) % dilation == 0]
                assert s["a"].shape == (len(sources),)
                h = sum(s["a"][position] * outputs[j] for position, j in enumerate(sources))
    return h


def mudd(sites, h, last):
    """As the authors' loop: every block's output joins the stack, all ways are mixed from it at once."""
    ways, outputs = None, [h]
    for s in sites:
        query = key = value = h
        if s.begins_block and ways is not None:
            query, key, value, h = ways
        if s.begins_block:
            names = ("norm", "norm", "norm") if ways is None else ("norm", "norm_key", "norm_value")
            query, key, value = (s.norm(name, x) for name, x in zip(names, (query, key, value), strict=True))
            attended = s.attention(query, key=key, value=value)
            h = h + attended + (s.mlp(s.norm("norm_mlp", h)) if s.ends_block else 0)
        else:
            h = h + s.f(s.norm("norm", h))
        if s.ends_block:
            outputs.append(h)
            count, alone = len(outputs), s is sites[-1]
            assert s["sums.w_1"].shape[0] == (count * (4 if alone else 1) * (1 if alone else 4) // 64 + 1) * 64
            inner = torch.nn.functional.gelu(h / rms(h, s.eps) @ s["sums.w_1"].T)
            dynamic = (inner @ s["sums.w_2"].T).unflatten(-1, (1 if alone else 4, count))
            ways = torch.einsum("lbtd,btcl->cbtd", torch.stack(outputs), dynamic + s["sums.a"])
    return ways[-1]


def attn_res(sites, h, last, block=1, heads=1, roles="shared", routing="replace"):
    def over_depth(s, name, sources, query):
        keys = [v / rms(v, s.eps) * s[f"{name}.norm.weight"] for v in sources]
        size, parts = h.shape[-1] // heads, []
        for part in (slice(i * size, (i + 1) * size) for i in range(heads)):
            logits = torch.stack([(key[..., part] * query[part]).sum(-1) for key in keys]).exp()
            weights = logits / logits.sum(0)
            parts.append(sum(weight[..., None] * v[..., part] for weight, v in zip(weights, sources, strict=True)))
        return torch.cat(parts, -1) + (total if routing == "add" else 0)

    sources, total = [h], h
    for position, s in enumerate(sites):
        if position == 0:
            f = s.f(s.norm("norm", h))
        elif s.sublayer == "mlp" or roles == "shared":
            f = s.f(s.norm("norm", over_depth(s, "attend", sources, s["attend.query"])))
        else:
            names = ["norm", "norm", "norm"] if roles == "value" else ["norm", "norm_key", "norm_value"]
            order = [0, 0, 1] if roles == "value" else [0, 1, 2]
            query, key, value = (
                s.norm(name, over_depth(s, "attend", sources, s["attend.query"][i]))
                for name, i in zip(names, order, strict=True)
            )
            f = s.attention(query, key=key, value=value) + (s.mlp(query) if s.ends_block else 0)
        total = total + f
        sources = [*sources, f] if position % block == 0 else [*sources[:-1], sources[-1] + f]
    return (
        over_depth(sites[-1], "attend_out", sources, sites[-1]["attend_out.query"])
        if last and routing == "replace"
        else total
    )


def unet(sites, h, last, mode="add", weight="learned", init=1.0):
    first, blocks = sites[0].layer, sites[-1].layer - sites[0].layer + 1
    pushed = []
    for s in sites:
        block = s.layer - first
        if s.begins_block and block >= blocks - blocks // 2:
            skip = pushed.pop()
            if mode == "concat":
                h = torch.cat([h, skip], -1) @ s["project.weight"].T + s["project.bias"]
            else:
                h = h + (s["w"] if weight == "learned" else init) * skip
        h = h + s.f(s.norm("norm", h))
        if s.ends_block and block < blocks // 2:
            pushed.append(h)
    return h


def momentum(sites, h, last, gamma=0.9):
    v = torch.zeros_like(h)
    for s in sites:
        v = gamma * v + (1 - gamma) * s.f(s.norm("norm", h))
        h = h + v
    return h


def reversible(sites, h, last):
    x1 = x2 = h
    for s in sites:
        x1, x2 = x2, x1 + s.f(s.norm("norm", x2))
    return (x1 + x2) / 2


def residual_dual(sites, h, last):
    p = q = h
    for s in sites:
        y = s.f(p)
        p, q = s.norm("norm", p + y), q + y
    return p + sites[-1].norm("norm_dual", q)


def siamese(sites, h, last):
    p = q = h
    for s in sites:
        p = s.norm("norm_post", p)
        y = s.f(s.norm("norm_in", p + s.norm("norm_pre", q)))
        p, q = p + y / math.sqrt(2 * (s.layer + 1)), q + y
    return sites[-1].norm("norms_out.0", p) + sites[-1].norm("norms_out.1", q)


def two_lane(sites, h, last, decay=1.1**0.5, cross=1.5):
    a = b = h
    for s in sites:
        f = s.f(s.norm("norm", b if s.sublayer == "mlp" else a))
        a, b = s["r"] * a + s["p"][0] * f, s["r"] * b + s["p"][1] * f
    return (a + b) / 2


def layer_norm(s, x):
    x = x - x.mean(-1, keepdim=True)
    return x / rms(x, s.eps) * s["stream_norm.weight"] + s["stream_norm.bias"]


def hyper_maps(s, streams, dynamic):
    """For each stream its row of alpha and its beta."""
    rows, writes = [], []
    for i, stream in enumerate(streams):
        row, write = s["alpha"][i], s["beta"][i]
        if dynamic:
            row = row + s["alpha_scale"] * torch.tanh(layer_norm(s, stream) @ s["alpha_weight"])
            write = write + (s["beta_scale"] * torch.tanh(layer_norm(s, stream) @ s["beta_weight"]))[..., 0]
        rows.append(row)
        writes.append(write)
    return rows, writes


def column(rows, j, streams):
    return sum(row[..., j, None] * stream for row, stream in zip(rows, streams, strict=True))


def hyper(sites, h, last, n=4, dynamic=True, scale_output=False):
    streams = [h] * n
    for s in sites:
        rows, writes = hyper_maps(s, streams, dynamic)
        f = s.f(s.norm("norm", column(rows, 0, streams)))
        streams = [column(rows, 1 + j, streams) + writes[j][..., None] * f for j in range(n)]
    return sum(streams) / n


def frac(sites, h, last, m=4, dynamic=True):
    part = h.shape[-1] // m
    streams = [h[..., i * part : (i + 1) * part] for i in range(m)]
    for s in sites:
        rows, writes = hyper_maps(s, streams, dynamic)
        f = s.f(s.norm("norm", torch.cat([column(rows, i, streams) for i in range(m)], -1)))
        pieces = [f[..., j * part : (j + 1) * part] for j in range(m)]
        streams = [column(rows, m + j, streams) + writes[j][..., None] * pieces[j] for j in range(m)]
    return torch.cat(streams, -1)


def mhc_logits(s, streams, weight):
    everything = torch.cat(streams, -1)
    return (everything / rms(everything, s.eps)) @ weight.T


def sinkhorn(logits, iters, variant, eps):
    """``logits[..., row, column]``."""
    grid = (logits - logits.amax((-2, -1), keepdim=True)).exp()
    if variant == "paper":
        for _ in range(iters):
            grid = grid / grid.sum(-2, keepdim=True)
            grid = grid / grid.sum(-1, keepdim=True)
        return grid
    grid = grid / grid.sum(-1, keepdim=True) + eps
    grid = grid / (grid.sum(-2, keepdim=True) + eps)
    for _ in range(iters - 1):
        grid = grid / (grid.sum(-1, keepdim=True) + eps)
        grid = grid / (grid.sum(-2, keepdim=True) + eps)
    return grid


def permuted(logits, factors, streams):
    """Every choice of one permutation for each factor moves the streams, whose numbers are digits in mixed radix, and
    weighs the product of its softmaxes."""
    weights = []
    for factor in factors:
        part, logits = logits[..., : math.factorial(factor)], logits[..., math.factorial(factor) :]
        weights.append(part.exp() / part.exp().sum(-1, keepdim=True))
    moved = [0 * stream for stream in streams]
    for choice in itertools.product(*(enumerate(itertools.permutations(range(factor))) for factor in factors)):
        weight = math.prod(w[..., number, None] for w, (number, _) in zip(weights, choice, strict=True))
        for i, digits in enumerate(itertools.product(*map(range, factors))):
            j = 0
            for digit, factor, (_, permutation) in zip(digits, factors, choice, strict=True):
                j = j * factor + permutation[digit]
            moved[j] = moved[j] + weight * streams[i]
    return moved


def rotated(logits, streams):
    """Two steps towards the Cayley transform, written out as its series."""
    w = 0.1 * (logits - logits.transpose(-1, -2))
    grid = torch.eye(len(streams)).to(w) + w + w @ w / 2 + w @ w @ w / 4
    return [sum(grid[..., j, i, None] * stream for i, stream in enumerate(streams)) for j in range(len(streams))]


def mhc(sites, h, last, n=4, iters=20, variant="deepseek_v4", head="mean", entry="copy", apart=None, eps=1e-6):
    official = variant in ("deepseek_v4", "identity")
    streams = [h] * n if entry == "copy" else [h * scale for scale in sites[0]["entry_scale"]]
    for s in sites:
        logits = mhc_logits(s, streams, s["weight"])
        reads = sigmoid(s["scale"][0] * logits[..., :n] + s["bias"][:n]) + (eps if official else 0)
        writes = 2 * sigmoid(s["scale"][1] * logits[..., n : 2 * n] + s["bias"][n : 2 * n])
        f = s.f(s.norm("norm", sum(reads[..., i, None] * streams[i] for i in range(n))))
        if variant == "identity":
            mixed, writes = streams, writes + eps
        else:
            carry = s["scale"][2] * logits[..., 2 * n :] + s["bias"][2 * n :]
            if variant == "lite":
                mixed = permuted(carry, [n], streams)
            elif variant == "kronecker":
                mixed = permuted(carry, {1: [1], 2: [2], 3: [3], 4: [2, 2], 5: [5], 6: [2, 3]}[n], streams)
            elif variant == "orthogonal":
                mixed = rotated(carry.unflatten(-1, (n, n)), streams)
            else:
                grid = sinkhorn(carry.unflatten(-1, (n, n)), iters, variant, eps)
                grid = grid.transpose(-1, -2) if official else grid
                mixed = [sum(grid[..., j, i, None] * streams[i] for i in range(n)) for j in range(n)]
        streams = [mixed[j] + writes[..., j, None] * f for j in range(n)]
    if last and head == "learned":
        s = sites[-1]
        reads = sigmoid(s["head_scale"] * mhc_logits(s, streams, s["head_weight"]) + s["head_bias"]) + eps
        return sum(reads[..., i, None] * streams[i] for i in range(n))
    return sum(streams) / n


FORMULAS = {
    "x0_mix": x0_mix,
    "concat": concat,
    "denseformer": denseformer,
    "attn_res": attn_res,
    "mudd": mudd,
    "unet": unet,
    "momentum": momentum,
    "reversible": reversible,
    "residual_dual": residual_dual,
    "siamese": siamese,
    "two_lane": two_lane,
    "hyper": hyper,
    "frac": frac,
    "mhc": mhc,
}
CARRIES = ["deepseek_v4", "paper", "identity", "lite", "kronecker", "orthogonal"]
OPTIONS = {
    "x0_mix": {"init": st.sampled_from(["identity", "nanochat"]), "backout": st.booleans()},
    "concat": {"growth": st.integers(1, 12), "bottleneck": st.none() | st.integers(1, 12)},
    "denseformer": {"dilation": st.integers(1, 4), "period": st.integers(1, 4)},
    "attn_res": {"block": st.integers(1, 6), "heads": st.sampled_from([1, 2, 4, 16]),
                 "roles": st.sampled_from(["shared", "value", "separate"]), "routing": st.just("replace")},
    "unet": {"mode": st.sampled_from(["add", "concat"]), "weight": st.sampled_from(["learned", "fixed"]),
             "init": st.floats(0.3, 1.7)},
    "momentum": {"gamma": st.floats(0, 0.99)},
    "two_lane": {"decay": st.floats(0.8, 1.2), "cross": st.floats(0.5, 2)},
    "hyper": {"n": st.integers(1, 5), "dynamic": st.booleans(), "scale_output": st.booleans()},
    "frac": {"m": st.sampled_from([1, 2, 4, 8]), "dynamic": st.booleans()},
    "mhc": {"n": st.integers(1, 5), "iters": st.integers(1, 20), "variant": st.sampled_from(CARRIES),
            "head": st.sampled_from(["mean", "learned"]), "entry": st.sampled_from(["copy", "scaled"]),
            "apart": st.sampled_from([None, False, True]), "eps": st.sampled_from([1e-6, 1e-3])},
}  # fmt: skip
