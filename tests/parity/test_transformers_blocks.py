"""Logits and gradients against more classes of transformers, with their weights copied over.

| kind or option | oracle |
| --- | --- |
| deepnorm, post, norm_add | MiniMax, its attention full and its experts one: the stack of norm-then-skip equals a post-norm stack whose embedding is normed |
| two_norms in a parallel block | GPT-NeoX |
| pre in a parallel block | Cohere, GPT-J |
| sub_ln | Kosmos-2's text model, of the same authors |
| qk_norm=head | Qwen 3; with peri Gemma 3 |
"""  # noqa: E501

import pytest
import torch
from oracle_helpers import (
    GROUPED,
    HEADS,
    HIDDEN,
    INNER,
    LAYERS,
    LENGTH,
    SHAPE,
    VOCABULARY,
    copy,
    hold,
    llama_like,
    ours,
    randomise,
    set_equal,
)
from parity_helpers import holds, rms
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.kosmos2.configuration_kosmos2 import Kosmos2TextConfig
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2TextForCausalLM

ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
LIKE_LLAMA = {"num_key_value_heads": 2, "intermediate_size": INNER, "tie_word_embeddings": False}
BIASED = {"norm": "layernorm", "norm_eps": 1e-5, "gated_mlp": False, "intermediate_size": INNER,
          "tie_word_embeddings": False, "parallel_block": True, "mlp_bias": True}  # fmt: skip


def minimax(alpha: float):
    config = MiniMaxConfig(**GROUPED, rms_norm_eps=1e-6, layer_types=["full_attention"] * LAYERS, num_local_experts=1,
                           num_experts_per_tok=1, full_attn_alpha_factor=alpha, mlp_alpha_factor=alpha,
                           experts_implementation="eager", rope_parameters=ROPE)  # fmt: skip
    return randomise(MiniMaxForCausalLM(config))


def pair_minimax(model, oracle, norms):
    """Everything but the embedding; ``norms``: theirs in the order of ours."""
    pairs = copy(model.lm_head, oracle.lm_head)
    for block, layer in zip(model.model.layers, oracle.model.layers, strict=True):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            pairs += copy(getattr(block.attention, name), getattr(layer.self_attn, name))
        experts = layer.mlp.experts
        gate, up = experts.gate_up_proj[0].chunk(2, 0)
        mine = (block.mlp.gate_proj.weight, block.mlp.up_proj.weight, block.mlp.down_proj.weight)
        set_equal(zip(mine, (gate, up, experts.down_proj[0]), strict=True))
    residuals = [residual for block in model.model.layers for residual in block.residuals]
    for residual, norm in zip(residuals, norms, strict=True):
        pairs += copy(residual.norm, norm)
    return pairs


def their_norms(oracle):
    layers = [[layer.input_layernorm, layer.post_attention_layernorm] for layer in oracle.model.layers]
    return [norm for pair in layers for norm in pair] + [oracle.model.norm]


@holds("transformers MiniMax", "deepnorm", "post")
@pytest.mark.parametrize("residual, alpha", [("deepnorm", (2 * LAYERS) ** 0.25), ("deepnorm(alpha=2.5)", 2.5),
                                             ("post", 1.0)])  # fmt: skip
def test_minimax_is_deepnorm_on_a_normed_embedding(residual, alpha):
    oracle = minimax(alpha)
    first, *rest = their_norms(oracle)
    model = ours(residual=residual, **LIKE_LLAMA)
    pairs = pair_minimax(model, oracle, rest)
    table = oracle.model.embed_tokens.weight
    set_equal([(model.model.embed_tokens.weight, table / rms(table, 1e-6) * first.weight)])
    hold(model, oracle, pairs)


@holds("transformers MiniMax", "norm_add")
def test_minimax_is_norm_add():
    """Its norm comes before the skip, which is the MLP half of HybridNorm, at every site."""
    oracle, model = minimax(1.0), ours(residual="norm_add", **LIKE_LLAMA)
    *norms, last = their_norms(oracle)
    pairs = pair_minimax(model, oracle, norms) + copy(model.model.norm, last)
    hold(model, oracle, pairs + copy(model.model.embed_tokens, oracle.model.embed_tokens))


def with_zero_bias(norm, theirs):
    """Our LayerNorm from one without a bias."""
    torch.nn.init.zeros_(norm.bias)
    set_equal([(norm.weight, theirs.weight)])
    return [(norm.weight, theirs.weight, False)]


@holds("transformers GPTNeoX", "two_norms")
def test_gpt_neox_is_two_norms_in_a_parallel_block():
    config = GPTNeoXConfig(**SHAPE, intermediate_size=INNER, attn_implementation="eager",
                           rope_parameters=ROPE | {"partial_rotary_factor": 1.0})  # fmt: skip
    oracle = randomise(GPTNeoXForCausalLM(config))
    model = ours(residual="two_norms", attention_bias=True, hidden_act="gelu", **BIASED)
    body = oracle.gpt_neox
    pairs = copy(model.model.embed_tokens, body.embed_in) + copy(model.model.norm, body.final_layer_norm)
    pairs += copy(model.lm_head, oracle.lm_head)
    for block, layer in zip(model.model.layers, body.layers, strict=True):
        fused = layer.attention.query_key_value  # rows by head, in each its query, key and value
        weights = fused.weight.view(HEADS, 3, HIDDEN // HEADS, HIDDEN)
        biases = fused.bias.view(HEADS, 3, HIDDEN // HEADS)
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            mine = getattr(block.attention, name)
            set_equal([(mine.weight, weights[:, i].reshape(HIDDEN, HIDDEN)), (mine.bias, biases[:, i].reshape(HIDDEN))])
        pairs += copy(block.attention.o_proj, layer.attention.dense)
        pairs += copy(block.mlp.up_proj, layer.mlp.dense_h_to_4h) + copy(block.mlp.down_proj, layer.mlp.dense_4h_to_h)
        pairs += copy(block.parallel_residual.norm, layer.input_layernorm)
        pairs += copy(block.parallel_residual.norm_mlp, layer.post_attention_layernorm)
    hold(model, oracle, pairs)


def halves_from_interleaved(weight):
    """Rows of a projection whose rotation pairs neighbours, for ours, which pairs the two halves of a head."""
    by_head = weight.view(-1, HIDDEN // HEADS, *weight.shape[1:])
    return torch.cat([by_head[:, ::2], by_head[:, 1::2]], 1).reshape(weight.shape)


@holds("transformers Cohere", "pre")
def test_cohere_is_pre_in_a_parallel_block():
    config = CohereConfig(**GROUPED, logit_scale=1.0, layer_norm_eps=1e-5, pad_token_id=None, tie_word_embeddings=False,
                          rope_parameters=ROPE)  # fmt: skip
    oracle = randomise(CohereForCausalLM(config))
    model = ours(residual="pre", parallel_block=True, norm="layernorm", norm_eps=1e-5, **LIKE_LLAMA)
    pairs = copy(model.model.embed_tokens, oracle.model.embed_tokens) + copy(model.lm_head, oracle.lm_head)
    pairs += with_zero_bias(model.model.norm, oracle.model.norm)
    for block, layer in zip(model.model.layers, oracle.model.layers, strict=True):
        theirs = layer.self_attn
        pairs += copy(block.attention.v_proj, theirs.v_proj) + copy(block.attention.o_proj, theirs.o_proj)
        for name in ("q_proj", "k_proj"):
            mine = getattr(block.attention, name).weight
            set_equal([(mine, halves_from_interleaved(getattr(theirs, name).weight))])
        for name in ("gate_proj", "up_proj", "down_proj"):
            pairs += copy(getattr(block.mlp, name), getattr(layer.mlp, name))
        pairs += with_zero_bias(block.parallel_residual.norm, layer.input_layernorm)
    hold(model, oracle, pairs)


@holds("transformers GPTJ", "pre")
def test_gptj_is_pre_in_a_parallel_block():
    config = GPTJConfig(vocab_size=VOCABULARY, n_positions=32, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS,
                        n_inner=INNER, rotary_dim=HIDDEN // HEADS, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
                        attn_implementation="eager")  # fmt: skip
    oracle = randomise(GPTJForCausalLM(config))
    torch.nn.init.zeros_(oracle.lm_head.bias)
    model = ours(residual="pre", hidden_act="gelu_new", **BIASED)
    body = oracle.transformer
    pairs = copy(model.model.embed_tokens, body.wte) + copy(model.model.norm, body.ln_f)
    pairs += copy(model.lm_head, oracle.lm_head)
    angles = torch.arange(32.0)[:, None].double() * model.model.rotary_emb.inv_freq.double()
    for block, layer in zip(model.model.layers, body.h, strict=True):
        mine, theirs = block.attention, layer.attn
        theirs.embed_positions = torch.cat((torch.sin(angles), torch.cos(angles)), 1)  # it keeps them in float32
        pairs += copy(mine.v_proj, theirs.v_proj) + copy(mine.o_proj, theirs.out_proj)
        for name in ("q_proj", "k_proj"):
            set_equal([(getattr(mine, name).weight, halves_from_interleaved(getattr(theirs, name).weight))])
        pairs += copy(block.mlp.up_proj, layer.mlp.fc_in) + copy(block.mlp.down_proj, layer.mlp.fc_out)
        pairs += copy(block.parallel_residual.norm, layer.ln_1)
    hold(model, oracle, pairs)


@pytest.fixture
def made_in_double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@holds("transformers Kosmos2", "sub_ln")
def test_kosmos2_is_sub_ln(made_in_double):  # it makes its mask in the default dtype
    config = Kosmos2TextConfig(vocab_size=VOCABULARY, embed_dim=HIDDEN, layers=LAYERS, attention_heads=HEADS,
                               ffn_dim=INNER, max_position_embeddings=32, dropout=0.0, attention_dropout=0.0,
                               scale_embedding=False, pad_token_id=0, tie_word_embeddings=False,
                               attn_implementation="eager")  # fmt: skip
    oracle = randomise(Kosmos2TextForCausalLM(config))
    options = BIASED | {"parallel_block": False, "attention_bias": True, "position_embedding": "learned"}
    model = ours(residual="sub_ln", hidden_act="gelu", **options)
    body, positions = oracle.model, torch.arange(LENGTH) + 2
    copy(model.model.embed_tokens, body.embed_tokens)  # theirs gives the padding's row no gradient
    set_equal([(model.model.embed_positions.weight[:LENGTH], body.embed_positions.weights[positions])])
    pairs = copy(model.model.norm, body.layer_norm) + copy(model.lm_head, oracle.lm_head)
    for block, layer in zip(model.model.layers, body.layers, strict=True):
        mine, theirs = block.attention, layer.self_attn
        for name in ("q_proj", "k_proj", "v_proj"):
            pairs += copy(getattr(mine, name), getattr(theirs, name))
        pairs += copy(mine.o_proj, theirs.out_proj) + copy(mine.inner_norm, theirs.inner_attn_ln)
        pairs += copy(block.mlp.up_proj, layer.ffn.fc1) + copy(block.mlp.down_proj, layer.ffn.fc2)
        pairs += copy(block.mlp.inner_norm, layer.ffn.ffn_layernorm)
        pairs += copy(block.attention_residual.norm, layer.self_attn_layer_norm)
        pairs += copy(block.mlp_residual.norm, layer.final_layer_norm)
    hold(model, oracle, pairs, position_ids=positions.repeat(2, 1))


HEAD_NORMS = {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}


@holds("transformers Qwen3", "pre")
def test_qwen3_is_pre_with_norms_on_each_head():
    config = Qwen3Config(**GROUPED, head_dim=HIDDEN // HEADS, rms_norm_eps=1e-6)
    oracle = randomise(Qwen3ForCausalLM(config))
    model = ours(residual="pre", qk_norm="head", **LIKE_LLAMA)
    norms = {"attention_residual.norm": "input_layernorm", "mlp_residual.norm": "post_attention_layernorm"}
    hold(model, oracle, llama_like(model, oracle, norms | HEAD_NORMS))


@holds("transformers Gemma3", "peri", "sandwich")
@pytest.mark.parametrize("kind", ["peri", "sandwich"])
def test_gemma3_is_peri_with_norms_on_each_head(kind):
    config = Gemma3TextConfig(**GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=64, pad_token_id=None,
                              layer_types=["sliding_attention"] * LAYERS, tie_word_embeddings=False)  # fmt: skip
    oracle = randomise(Gemma3ForCausalLM(config))
    model = ours(residual=kind, qk_norm="head", hidden_act="gelu_pytorch_tanh", **LIKE_LLAMA)
    norms = {
        "attention_residual.norm_in": "input_layernorm",
        "attention_residual.norm_out": "post_attention_layernorm",
        "mlp_residual.norm_in": "pre_feedforward_layernorm",
        "mlp_residual.norm_out": "post_feedforward_layernorm",
    }
    pairs = llama_like(model, oracle, norms | HEAD_NORMS)
    with torch.no_grad():  # Gemma stores its norms' weights less 1 and multiplies the embedding by sqrt(hidden)
        for module in model.modules():
            if type(module).__name__ == "RMSNorm":
                module.weight.add_(1)
        model.model.embed_tokens.weight.mul_(oracle.model.embed_tokens.embed_scale)
    embedding = model.model.embed_tokens.weight
    hold(model, oracle, [pair for pair in pairs if pair[0] is not embedding])
