"""Logits and gradients against the classes of transformers, with their weights copied over.

| kind | oracle |
| --- | --- |
| pre, learned positions, LayerNorm, plain MLP | GPT-2 |
| post | OpenAI GPT |
| pre, RMSNorm, RoPE, grouped queries | Llama |
| res_post, QK-norm over the projection | OLMo 2 |
| peri, soft-capped logits | Gemma 2 |
| granite | Granite |
"""

import pytest
import torch
from oracle_helpers import GROUPED, HEADS, HIDDEN, INNER, LAYERS, VOCABULARY, copy, hold, llama_like, ours, randomise
from parity_helpers import holds
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)


def split(targets, source):
    """GPT's fused, transposed q, k, v."""
    with torch.no_grad():
        for target, weight, bias in zip(targets, source.weight.chunk(3, 1), source.bias.chunk(3), strict=True):
            target.weight.copy_(weight.T)
            target.bias.copy_(bias)


def gpt_like(model, oracle, blocks, names):
    for block, layer in zip(model.model.layers, blocks, strict=True):
        split([block.attention.q_proj, block.attention.k_proj, block.attention.v_proj], layer.attn.c_attn)
    pairs = []
    for block, layer in zip(model.model.layers, blocks, strict=True):
        pairs += copy(block.attention.o_proj, layer.attn.c_proj, transpose=True)
        pairs += copy(block.mlp.up_proj, layer.mlp.c_fc, transpose=True)
        pairs += copy(block.mlp.down_proj, layer.mlp.c_proj, transpose=True)
        for path, name in names.items():
            pairs += copy(block.get_submodule(path), layer.get_submodule(name))
    return pairs


GPT = {"norm": "layernorm", "norm_eps": 1e-5, "position_embedding": "learned", "attention_bias": True, "mlp_bias": True,
       "gated_mlp": False, "hidden_act": "gelu_new"}  # fmt: skip


@holds("transformers GPT2", "pre")
def test_gpt2_is_pre():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=32,
                        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, attn_implementation="eager")  # fmt: skip
    oracle, model = randomise(GPT2LMHeadModel(config)), ours(residual="pre", **GPT)
    body = oracle.transformer
    pairs = copy(model.model.embed_tokens, body.wte) + copy(model.model.embed_positions, body.wpe)
    pairs += copy(model.model.norm, body.ln_f)
    names = {"attention_residual.norm": "ln_1", "mlp_residual.norm": "ln_2"}
    hold(model, oracle, pairs + gpt_like(model, oracle, body.h, names))


@holds("transformers OpenAIGPT", "post")
def test_openai_gpt_is_post():
    config = OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=32,
                             resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, afn="gelu")  # fmt: skip
    oracle, model = randomise(OpenAIGPTLMHeadModel(config)), ours(residual="post", **GPT)
    body = oracle.transformer
    pairs = copy(model.model.embed_tokens, body.tokens_embed)
    pairs += copy(model.model.embed_positions, body.positions_embed)
    names = {"attention_residual.norm": "ln_1", "mlp_residual.norm": "ln_2"}
    hold(model, oracle, pairs + gpt_like(model, oracle, body.h, names))


@holds("transformers Llama", "pre")
@pytest.mark.parametrize("tied", [False, True])
def test_llama_is_pre(tied):
    oracle = randomise(LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=tied)))
    model = ours(residual="pre", num_key_value_heads=2, intermediate_size=INNER, tie_word_embeddings=tied)
    norms = {"attention_residual.norm": "input_layernorm", "mlp_residual.norm": "post_attention_layernorm"}
    hold(model, oracle, llama_like(model, oracle, norms))


@holds("transformers Olmo2", "res_post")
def test_olmo2_is_res_post():
    oracle = randomise(Olmo2ForCausalLM(Olmo2Config(**GROUPED, rms_norm_eps=1e-6, pad_token_id=None)))
    model = ours(residual="res_post", qk_norm="projection", num_key_value_heads=2, intermediate_size=INNER,
                 tie_word_embeddings=False)  # fmt: skip
    norms = {
        "attention_residual.norm": "post_attention_layernorm",
        "mlp_residual.norm": "post_feedforward_layernorm",
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
    }
    hold(model, oracle, llama_like(model, oracle, norms))


@holds("transformers Gemma2", "peri", "sandwich")
@pytest.mark.parametrize("kind", ["peri", "sandwich"])
def test_gemma2_is_peri(kind):
    config = Gemma2Config(**GROUPED, head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=None,
                          final_logit_softcapping=5.0, sliding_window=64, hidden_activation="gelu_pytorch_tanh",
                          tie_word_embeddings=False)  # fmt: skip
    oracle = randomise(Gemma2ForCausalLM(config))
    model = ours(residual=kind, num_key_value_heads=2, intermediate_size=INNER, hidden_act="gelu_pytorch_tanh",
                 final_logit_softcapping=5.0, tie_word_embeddings=False)  # fmt: skip
    norms = {
        "attention_residual.norm_in": "input_layernorm",
        "attention_residual.norm_out": "post_attention_layernorm",
        "mlp_residual.norm_in": "pre_feedforward_layernorm",
        "mlp_residual.norm_out": "post_feedforward_layernorm",
    }
    pairs = llama_like(model, oracle, norms, offset=0.0)
    with torch.no_grad():  # Gemma stores its norms' weights less 1 and multiplies the embedding by sqrt(hidden)
        for module in model.modules():
            if type(module).__name__ == "RMSNorm":
                module.weight.add_(1)
        model.model.embed_tokens.weight.mul_(oracle.model.embed_tokens.embed_scale)
    embedding = model.model.embed_tokens.weight
    hold(model, oracle, [pair for pair in pairs if pair[0] is not embedding])


@holds("transformers Granite", "granite", "scaled")
@pytest.mark.parametrize("residual", ["granite(multiplier=0.3)", "scaled(branch=0.3)"])
def test_granite_is_granite(residual):
    config = GraniteConfig(**GROUPED, residual_multiplier=0.3, attention_multiplier=(HIDDEN // HEADS) ** -0.5,
                           embedding_multiplier=1.0, logits_scaling=1.0, tie_word_embeddings=False)  # fmt: skip
    oracle = randomise(GraniteForCausalLM(config))
    model = ours(residual=residual, num_key_value_heads=2, intermediate_size=INNER,
                 tie_word_embeddings=False)  # fmt: skip
    norms = {"attention_residual.norm": "input_layernorm", "mlp_residual.norm": "post_attention_layernorm"}
    hold(model, oracle, llama_like(model, oracle, norms))
