"""What the ledger's formulas stand on: the sites of a model, norms written out, and a comparison.

The branches (attention, MLP) are taken from the model as black boxes; everything that a connection does, its norms
included, the formulas write out again.
"""

import math
from dataclasses import dataclass, field

import torch

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.model.specification import KINDS, PRESETS

VOCABULARY = 23
NO_FINAL_NORM = {"post", "b2t", "keel", "deepnorm", "admin", "residual_dual"}


def ends_without_norm(kind: str, options: dict) -> bool:
    """By the papers: kinds whose last step is a norm; ResiDual's read-out contains one; ReZero has none anywhere."""
    if kind == "prores":
        return options.get("norm") in NO_FINAL_NORM
    return kind in NO_FINAL_NORM or (kind == "rezero" and options.get("norm", "none") == "none")


LEDGER: dict[str, set[str]] = {name: set() for name in [*KINDS, *PRESETS]}
"""Kind -> what its numbers are compared with besides its formula."""


def holds(oracle: str, *kinds: str):
    """Enter a test in the ledger: it compares these kinds with ``oracle``, a package and its class or option."""
    for kind in kinds:
        LEDGER[kind].add(oracle)
    return lambda test: test


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def rms(x, eps):
    return ((x * x).mean(-1, keepdim=True) + eps).sqrt()


def normalise(kind: str, eps: float, x, own: dict, name: str):
    """The norm of a configuration: ``own`` holds its parameters under ``name``."""
    if kind == "rmsnorm":
        return x / rms(x, eps) * own[f"{name}.weight"]
    if kind == "layernorm":
        centred = x - x.mean(-1, keepdim=True)
        return centred / rms(centred, eps) * own[f"{name}.weight"] + own[f"{name}.bias"]
    if kind == "dyt":
        return torch.tanh(own[f"{name}.alpha"] * x) * own[f"{name}.weight"] + own[f"{name}.bias"]
    return x


@dataclass
class Place:
    """One site: own parameters by name, the branch ``f``, where it stands.

    ``layer`` is the block and ``index`` the site in the stack of ``L`` blocks and ``S`` sites, all from 0; ``t`` counts
    the steps that were trained.
    """

    own: dict
    layer: int
    index: int
    L: int
    S: int
    attention: object
    mlp: object
    sublayer: str
    norm_kind: str
    eps: float
    gpas_scalar: object = None
    t: int = 0

    def __getitem__(self, name):
        return self.own[name]

    @property
    def f(self):
        if self.sublayer == "parallel":
            return lambda x: self.attention(x) + self.mlp(x)
        return self.attention if self.sublayer == "attention" else self.mlp

    @property
    def begins_block(self):
        return self.sublayer != "mlp"

    @property
    def ends_block(self):
        return self.sublayer != "attention"

    def norm(self, name, x):
        return normalise(self.norm_kind, self.eps, x, self.own, name)

    def gpas(self, h):
        a = self.gpas_scalar
        return h if a is None else h - a * sigmoid(a) * h.detach()


@dataclass
class Run:
    """Consecutive sites of one kind, options and width."""

    kind: str
    options: dict
    width: int
    places: list = field(default_factory=list)


def runs(model, branches=None) -> list[Run]:
    """The stack as the formulas see it. ``branches(layer)`` may give other branches than the model's own."""
    config, found = model.config, []
    blocks = config.connections()
    positions = None
    if config.position_embedding == "rope":
        positions = model.model.rotary_emb(torch.zeros(1, dtype=torch.float64), torch.arange(64)[None])
    names = ("parallel",) if config.parallel_block else ("attention", "mlp")
    for layer, block in enumerate(model.model.layers):

        def attention(x, block=block, **views):
            at = positions and tuple(part[:, : x.shape[1]] for part in positions)
            return block.attention(x, at, None, None, **views)[0]

        attention, mlp = branches(layer) if branches else (attention, block.mlp)
        for order, sublayer in enumerate(names):
            residual, written = block.get_submodule(f"{sublayer}_residual"), blocks[layer][sublayer]
            options, width = dict(written.options), config.widths()[layer]
            place = Place(dict(residual.named_parameters()), layer, layer * len(names) + order, len(blocks),
                          len(blocks) * len(names), attention, mlp, sublayer, config.norm, config.norm_eps)  # fmt: skip
            if not found or (found[-1].kind, found[-1].options, found[-1].width) != (written.kind, options, width):
                found.append(Run(written.kind, options, width))
            place.t = int(getattr(residual, "t", 0))
            place.gpas_scalar = place.own.get("gpas.a")
            if options.get("gpas") and place.gpas_scalar is None:
                place.gpas_scalar = found[-1].places[-1].gpas_scalar
            found[-1].places.append(place)
    return found


def expected_logits(model, tokens, formulas, branches=None):
    """What the model should compute, run by run from ``formulas``."""
    body, config = model.model, model.config
    h = body.embed_tokens.weight[tokens]
    if config.position_embedding == "learned":
        h = h + body.embed_positions.weight[: tokens.shape[1]]
    stack = runs(model, branches)
    for run in stack:
        options = {name: value for name, value in run.options.items() if name not in ("drop_path", "gpas")}
        h = formulas[run.kind](run.places, h, run is stack[-1], **options)
    if not ends_without_norm(stack[-1].kind, stack[-1].options):
        h = normalise(config.norm, config.norm_eps, h, dict(body.named_parameters()), "norm")
    return h @ model.lm_head.weight.T


def build(
    residual, depth: int, seed: int = 0, noise: float = 0.2, steps: int = 1500, **options
) -> ResformerForCausalLM:
    """A small model in float64, moved away from its special starts (zeros, identities, equal streams): by noise, and as
    if so many steps were trained."""
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": depth, "num_attention_heads": 2,
             "intermediate_size": 24}  # fmt: skip
    model = ResformerForCausalLM(ResformerConfig(**(shape | options), residual=residual)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    if noise:
        model.advance(steps)
    return model


def some_tokens(batch: int = 2, length: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def assert_near(got, expected, name: str, relative: float = 1e-9, absolute: float = 1e-14) -> None:
    """Largest difference against largest value."""
    assert got.shape == expected.shape, f"{name}: {got.shape} and {expected.shape}"
    difference = (got - expected).abs().max().item()
    allowed = relative * expected.abs().max().item() + absolute
    assert math.isfinite(difference) and difference <= allowed, f"{name}: differs by {difference:.3e}, {allowed:.1e}"


def assert_same(model, got, expected, relative: float = 1e-9) -> None:
    """Outputs, and the gradients of all parameters for one random direction of the outputs."""
    assert_near(got, expected, "output", relative)
    direction = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    parameters = dict(model.named_parameters())
    wanted = {"allow_unused": True, "materialize_grads": True}
    ours = torch.autograd.grad((got * direction).sum(), list(parameters.values()), **wanted)
    theirs = torch.autograd.grad((expected * direction).sum(), list(parameters.values()), **wanted)
    floor = relative * 1e-3 * max(gradient.abs().max().item() for gradient in theirs)
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        assert_near(a, b, f"gradient of {name}", relative, floor)
