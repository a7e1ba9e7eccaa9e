"""Other classes of transformers in terms of this model: their configurations and tensors, there and back."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from einops import rearrange
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .configuration_resformer import ResformerConfig
from .options import ResformerOptions

State = dict[str, torch.Tensor]
Options = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, as what of ours it is.

    Attributes:
        keys: ours of the configuration, and theirs with the same value, beside those that bear the same name.
        options: ours that all models of the class have.
        blocks: where their blocks stand, with the block's number in the place of ``{}``.
        block: our modules of a block, and theirs. Several of ours are one of theirs.
        outer: our modules outside the blocks, and theirs.
        must: their keys that must have one of these values, and what is missing here for others.
        ours: what of ours follows from their configuration otherwise.
        theirs: what of theirs follows from our configuration otherwise.
        fused: how the parts of one module of theirs lie in its first dimension, ``head`` being the heads.
        transposed: whether their matrices are stored as ``[in, out]``.
        offset: what their norms add to their stored weights.
    """

    keys: dict[str, str]
    options: Options
    blocks: str
    block: Mapping[Any, str]
    outer: dict[str, str]
    must: dict[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    ours: Callable[[Any], Options] = lambda theirs: {}
    theirs: Callable[[ResformerConfig], Options] = lambda ours: {}
    fused: str = "(part row)"
    transposed: bool = False
    offset: float = 0.0

    def modules(self, config: ResformerConfig) -> Iterator[tuple[tuple[str, ...], str]]:
        """Names of our modules, one or several that are fused, and of theirs."""
        for mine, their in self.outer.items():
            yield (mine,), their
        for layer in range(config.num_hidden_layers):
            for mine, their in self.block.items():
                parts = (mine,) if isinstance(mine, str) else mine
                if config.parallel_block:
                    parts = tuple(_in_parallel(part) for part in parts)
                yield tuple(f"model.layers.{layer}.{part}" for part in parts), f"{self.blocks.format(layer)}.{their}"


def _in_parallel(module: str) -> str:
    """A norm's name in a block with one connection."""
    module = module.replace("mlp_residual.norm", "parallel_residual.norm_mlp")
    return module.replace("attention_residual", "parallel_residual")


_SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "hidden_act", "rope_parameters", "attention_bias", "tie_word_embeddings",
    "attention_dropout", "hidden_dropout", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
_BRANCHES = {
    **{f"attention.{name}_proj": f"self_attn.{name}_proj" for name in "qkvo"},
    **{f"mlp.{name}_proj": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_PRE = {"attention_residual.norm": "input_layernorm", "mlp_residual.norm": "post_attention_layernorm"}
_PERI = {
    "attention_residual.norm_in": "input_layernorm", "attention_residual.norm_out": "post_attention_layernorm",
    "mlp_residual.norm_in": "pre_feedforward_layernorm", "mlp_residual.norm_out": "post_feedforward_layernorm",
}  # fmt: skip
_QK_NORM = {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
_QKV = tuple(f"attention.{name}_proj" for name in "qkv")
_OUTER = {"model.embed_tokens": "model.embed_tokens", "model.norm": "model.norm", "lm_head": "lm_head"}
_RMS = {"norm_eps": "rms_norm_eps"}
_LAYER_NORM = {"norm_eps": "layer_norm_eps"}


def _llama(**more: Any) -> Architecture:
    llama = Architecture(_RMS, {"residual": "pre"}, "model.layers.{}", _BRANCHES | _PRE, _OUTER)
    return dataclasses.replace(llama, **more)


def _gemma(block: dict[str, str], **more: Any) -> Architecture:
    return _llama(
        keys=_RMS | {"hidden_act": "hidden_activation", "final_logit_softcapping": "final_logit_softcapping",
                     "attention_logit_softcapping": "attn_logit_softcapping"},
        block=_BRANCHES | block,
        must={"use_bidirectional_attention": ((None, False), "attention to later tokens")},
        offset=1.0,
        **more,
    )  # fmt: skip


def _gemma_ours(theirs: Any) -> Options:
    scales = {"attention_multiplier": theirs.query_pre_attn_scalar**-0.5}
    return scales | {"embedding_multiplier": math.sqrt(theirs.hidden_size)} | _window(theirs)


def _gemma_theirs(ours: ResformerConfig) -> Options:
    return {"query_pre_attn_scalar": round(_scale(ours) ** -2)} | _layer_types(ours)


def _scale(ours: ResformerConfig) -> float:
    return cast(int, ours.head_dim) ** -0.5 if ours.attention_multiplier is None else ours.attention_multiplier


def _window(theirs: Any) -> Options:
    """Raises ValueError, one line, where blocks with a window lie otherwise than ours can."""
    window, blocks = theirs.sliding_window, range(1, theirs.num_hidden_layers + 1)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * len(blocks)
    if window is None or "sliding_attention" not in kinds:
        return {}
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else None
    if kinds != ["sliding_attention" if every is None or block % every else "full_attention" for block in blocks]:
        raise ValueError(f"{theirs.model_type} with layer_types {kinds} needs full attention elsewhere than every so "
                         "many blocks, which this model has not")  # fmt: skip
    return {"sliding_window": window, "full_attention_every": every}


def _layer_types(ours: ResformerConfig) -> Options:
    return {"sliding_window": ours.sliding_window, "use_sliding_window": ours.sliding_window is not None,
            "layer_types": ours.attention_kinds()}  # fmt: skip


def _rope_by_kind(theirs: Any) -> Options:
    """Gemma 3's, which turns blocks with a window by an angle of their own."""
    there, local = theirs.rope_parameters["full_attention"], theirs.rope_parameters["sliding_attention"]
    if local.get("rope_type", "default") != "default":
        raise ValueError(f"gemma3_text with rope_type {local['rope_type']!r} of blocks with a window needs what this "
                         "model has not")  # fmt: skip
    windowed = "sliding_attention" in theirs.layer_types and theirs.sliding_window is not None
    return {"rope_parameters": there} | ({"local_rope_theta": local["rope_theta"]} if windowed else {})


def _rope_of_kinds(ours: ResformerConfig) -> Options:
    rope = ours.rope_parameters or {}
    local = {"rope_type": "default", "rope_theta": ours.local_rope_theta or rope.get("rope_theta")}
    return {"rope_parameters": {"full_attention": rope, "sliding_attention": local}}


def _wiring(ours: ResformerConfig) -> str:
    return ours.connections()[0][ours.sublayers[0]].kind


def _same_dropout(*rates: float) -> float:
    """One rate for all places; where they differ, none."""
    return rates[0] if len(set(rates)) == 1 else 0.0


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _llama(keys=_RMS | {"mlp_bias": "mlp_bias"}),
    "mistral": _llama(ours=_window, theirs=lambda ours: {"sliding_window": ours.sliding_window}),
    "qwen2": _llama(
        options={"residual": "pre", "attention_bias": True, "attention_output_bias": False},
        ours=_window,
        theirs=_layer_types,
    ),
    "qwen3": _llama(
        options={"residual": "pre", "qk_norm": "head"},
        block=_BRANCHES | _PRE | _QK_NORM,
        ours=_window,
        theirs=_layer_types,
    ),
    "olmo2": _llama(
        options={"residual": "res_post", "qk_norm": "projection"},
        block=_BRANCHES
        | {"attention_residual.norm": "post_attention_layernorm", "mlp_residual.norm": "post_feedforward_layernorm"}
        | _QK_NORM,
    ),
    "granite": _llama(
        keys=_RMS
        | {name: name for name in ("mlp_bias", "embedding_multiplier", "attention_multiplier", "logits_scaling")},
        options={},
        ours=lambda theirs: {"residual": {"kind": "granite", "multiplier": float(theirs.residual_multiplier)}},
        theirs=lambda ours: {
            "attention_multiplier": _scale(ours),
            "residual_multiplier": ours.connections()[0]["attention"].options.get("multiplier", 0.22)
            if _wiring(ours) == "granite"
            else 1.0,
        },
    ),
    "gpt2": Architecture(
        keys={"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
              "max_position_embeddings": "n_positions", "hidden_act": "activation_function",
              "norm_eps": "layer_norm_epsilon", "attention_dropout": "attn_pdrop"},
        options={"residual": "pre", "norm": "layernorm", "position_embedding": "learned", "attention_bias": True,
                 "mlp_bias": True, "gated_mlp": False},
        blocks="transformer.h.{}",
        block={_QKV: "attn.c_attn", "attention.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc",
               "mlp.down_proj": "mlp.c_proj", "attention_residual.norm": "ln_1", "mlp_residual.norm": "ln_2"},
        outer={"model.embed_tokens": "transformer.wte", "model.embed_positions": "transformer.wpe",
               "model.norm": "transformer.ln_f", "lm_head": "lm_head"},
        must={"scale_attn_weights": ((True,), "attention without a scale"),
              "scale_attn_by_inverse_layer_idx": ((False,), "a scale of the attention by depth"),
              "add_cross_attention": ((False,), "cross attention")},
        ours=lambda theirs: {
            "intermediate_size": theirs.n_inner or 4 * theirs.n_embd,
            "hidden_dropout": _same_dropout(theirs.embd_pdrop, theirs.resid_pdrop),
        },
        theirs=lambda ours: {"n_inner": ours.intermediate_size, "embd_pdrop": ours.hidden_dropout,
                             "resid_pdrop": ours.hidden_dropout},
        transposed=True,
    ),
    "gpt_neox": Architecture(
        keys=_LAYER_NORM | {"parallel_block": "use_parallel_residual"},
        options={"norm": "layernorm", "mlp_bias": True, "gated_mlp": False},
        blocks="gpt_neox.layers.{}",
        block={_QKV: "attention.query_key_value", "attention.o_proj": "attention.dense",
               "mlp.up_proj": "mlp.dense_h_to_4h", "mlp.down_proj": "mlp.dense_4h_to_h", **_PRE},
        outer={"model.embed_tokens": "gpt_neox.embed_in", "model.norm": "gpt_neox.final_layer_norm",
               "lm_head": "lm_head"},
        ours=lambda theirs: {"residual": "two_norms" if theirs.use_parallel_residual else "pre"},
        fused="(head part row)",
    ),
    "stablelm": _llama(
        keys=_LAYER_NORM | {"attention_bias": "use_qkv_bias", "parallel_block": "use_parallel_residual"},
        options={"residual": "pre", "norm": "layernorm", "attention_output_bias": False},
        must={"qk_layernorm": ((False,), "a norm of its own for each head's queries and keys")},
    ),
    "phi": _llama(
        keys=_LAYER_NORM,
        options={"residual": "pre", "norm": "layernorm", "parallel_block": True, "attention_bias": True,
                 "mlp_bias": True, "gated_mlp": False, "lm_head_bias": True},
        block={**{f"attention.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
               "attention.o_proj": "self_attn.dense", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2",
               "attention_residual.norm": "input_layernorm",
               "attention.q_norm": "self_attn.q_layernorm", "attention.k_norm": "self_attn.k_layernorm"},
        outer=_OUTER | {"model.norm": "model.final_layernorm"},
        ours=lambda theirs: {"qk_norm": "head" if theirs.qk_layernorm else "none",
                             "hidden_dropout": _same_dropout(theirs.embd_pdrop, theirs.resid_pdrop)},
        theirs=lambda ours: {"qk_layernorm": ours.qk_norm == "head", "embd_pdrop": ours.hidden_dropout,
                             "resid_pdrop": ours.hidden_dropout},
    ),
    "gemma2": _gemma(_PERI, options={"residual": "peri"}, ours=_gemma_ours, theirs=_gemma_theirs),
    "gemma3_text": _gemma(
        _PERI | _QK_NORM,
        options={"residual": "peri", "qk_norm": "head"},
        ours=lambda theirs: _gemma_ours(theirs) | _rope_by_kind(theirs),
        theirs=lambda ours: _gemma_theirs(ours) | _rope_of_kinds(ours),
    ),
}  # fmt: skip
"""By the ``model_type`` of transformers."""


def architecture(model_type: str) -> Architecture:
    """Raises ValueError, one line, for a class that is not known here."""
    if model_type not in ARCHITECTURES:
        raise ValueError(f"{model_type!r} is no architecture known here; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model_type]


def our_config(theirs: PreTrainedConfig) -> ResformerConfig:
    """Their configuration as ours.

    Raises:
        ValueError: one line that says what their model has and ours has not.
    """
    known = architecture(theirs.model_type)
    for key, (allowed, missing) in known.must.items():
        if (value := getattr(theirs, key, allowed[0])) not in allowed:
            raise ValueError(f"{theirs.model_type} with {key} {value!r} needs {missing}, which this model has not")
    found = {name: getattr(theirs, name) for name in _SAME if getattr(theirs, name, None) is not None}
    found |= {mine: getattr(theirs, their) for mine, their in known.keys.items()}
    return ResformerConfig(**found | known.options | known.ours(theirs))


def their_config(ours: ResformerConfig, model_type: str) -> PreTrainedConfig:
    """Our configuration as theirs.

    Raises:
        ValueError: one line that says what our model has and theirs has not.
    """
    known = architecture(model_type)
    theirs: Any = CONFIG_MAPPING[model_type]
    names = {name: name for name in _SAME} | known.keys
    told = {their: getattr(ours, mine) for mine, their in names.items()} | known.theirs(ours)
    found = theirs(**{key: value for key, value in told.items() if key in theirs.__dataclass_fields__})
    back = our_config(found)
    there, here = _function(back), _function(ours)
    for key, value in here.items():
        if value != there[key]:
            raise ValueError(f"{model_type} cannot have {key} {getattr(ours, key)!r}, only {getattr(back, key)!r}")
    return found


_WITHOUT_EFFECT = {
    "initialization", "initializer_range", "embedding_initializer_range", "hidden_dropout", "attention_dropout",
    "use_cache", "pad_token_id", "bos_token_id", "eos_token_id",
}  # fmt: skip
"""Of a trained model's logits."""


def _function(config: ResformerConfig) -> Options:
    """All that decides what a model with these weights computes, defaults filled in."""
    names = [item.name for item in dataclasses.fields(ResformerOptions) if item.name not in _WITHOUT_EFFECT]
    found = {name: getattr(config, name) for name in names}
    found["residual"] = [{s: (c.kind, dict(c.options)) for s, c in block.items()} for block in config.connections()]
    found["attention_multiplier"] = _scale(config)
    if config.attention_output_bias is None:
        found["attention_output_bias"] = config.attention_bias
    if config.position_embedding != "rope":
        found["rope_parameters"] = None
    elif config.sliding_window is not None and config.local_rope_theta is None:
        found["local_rope_theta"] = (config.rope_parameters or {}).get("rope_theta")
    return found


def our_state(theirs: State, config: ResformerConfig, model_type: str) -> State:
    """Their tensors under our names.

    Args:
        theirs: a ``state_dict`` of the class of ``model_type``.
        config: ours, as ``our_config`` gives it.

    Raises:
        ValueError: one line for a tensor that has no place here.
    """
    known, left, found = ARCHITECTURES[model_type], dict(theirs), {}
    for mine, their in known.modules(config):
        for kind in ("weight", "bias"):
            if (tensor := left.pop(f"{their}.{kind}", None)) is None:
                continue
            if known.transposed and tensor.ndim == 2 and "embed" not in mine[0] and mine[0] != "lm_head":
                tensor = tensor.T
            parts = [tensor]
            if len(mine) > 1:
                pattern = f"{known.fused} ... -> part {_rows(known)} ..."
                parts = list(rearrange(tensor, pattern, **_sizes(known, config)))
            for name, part in zip(mine, parts, strict=True):
                found[f"{name}.{kind}"] = (part + known.offset if "norm" in name else part).contiguous()
    if left:
        raise ValueError(f"{model_type}: the tensor {min(left)} has no place in this model")
    if config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    return found


def their_state(ours: State, config: ResformerConfig, model_type: str) -> State:
    """Our tensors under their names: ``our_state`` backwards. All of theirs are there, tied ones too."""
    known, found = ARCHITECTURES[model_type], {}
    for mine, their in known.modules(config):
        for kind in ("weight", "bias"):
            parts = [ours[f"{name}.{kind}"] for name in mine if f"{name}.{kind}" in ours]
            if not parts:
                continue
            tensor = parts[0] - known.offset if "norm" in mine[0] else parts[0]
            if len(parts) > 1:
                together = torch.stack(parts)
                tensor = rearrange(together, f"part {_rows(known)} ... -> {known.fused} ...", **_sizes(known, config))
            if known.transposed and tensor.ndim == 2 and "embed" not in mine[0] and mine[0] != "lm_head":
                tensor = tensor.T
            found[f"{their}.{kind}"] = tensor.contiguous()
    return found


def _rows(known: Architecture) -> str:
    return known.fused.replace("part ", "")


def _sizes(known: Architecture, config: ResformerConfig) -> dict[str, int]:
    return {"part": 3} | ({"head": config.num_attention_heads} if "head" in known.fused else {})
