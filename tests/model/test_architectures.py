"""Models of the real classes of transformers, every weight random, are imported with equal logits, and go back."""

import copy
import math

import pytest
import torch
from model_helpers import VOCABULARY
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig

import resformer
from resformer.importing import difference, imported, load, rewire, to_transformers
from resformer.model.architectures import ARCHITECTURES
from resformer.model.specification import KINDS

LENGTH, WINDOW = 21, 6
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
UNGROUPED = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": None,
        "eos_token_id": None}  # fmt: skip
GEMMA = SHAPE | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 16}  # fmt: skip
ROPES = {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
         "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}  # fmt: skip

MODELS = [
    ("llama", SHAPE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", SHAPE | {"head_dim": 16, "rope_parameters": LLAMA_3}),
    ("mistral", SHAPE | {"sliding_window": None, "head_dim": 16}),
    ("mistral", SHAPE | {"sliding_window": WINDOW}),
    ("qwen2", SHAPE | {"tie_word_embeddings": True}),
    ("qwen2", SHAPE | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}),
    ("qwen3", SHAPE | {"head_dim": 16}),
    ("olmo2", SHAPE),
    ("granite", SHAPE | {"residual_multiplier": 0.3, "attention_multiplier": 0.2, "embedding_multiplier": 3.0,
                         "logits_scaling": 3.0, "tie_word_embeddings": True}),
    ("gpt2", GPT2),
    ("gpt2", GPT2 | {"n_inner": 40, "activation_function": "relu", "tie_word_embeddings": False}),
    ("gpt_neox", UNGROUPED),
    ("gpt_neox", UNGROUPED | {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0}),
    ("stablelm", SHAPE | {"use_qkv_bias": True}),
    ("stablelm", SHAPE | {"use_parallel_residual": True, "partial_rotary_factor": 0.5}),
    ("phi", SHAPE),
    ("phi", SHAPE | {"qk_layernorm": True, "partial_rotary_factor": 0.25}),
    ("gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    ("gemma3_text", GEMMA | {"sliding_window_pattern": 3, "rope_parameters": ROPES}),
]  # fmt: skip
CASES = pytest.mark.parametrize(
    ("model_type", "options"), MODELS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(MODELS)]
)


def original(model_type, options):
    """A model of transformers with random norms and biases too: a parity of ones and zeros would prove little."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**copy.deepcopy(options)))
    return randomise(model)


def randomise(model, scale=0.1):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * scale)
    return model.eval()


def tokens(seed=1):
    return torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


def equal(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_every_known_class_is_tried():
    assert {model_type for model_type, _ in MODELS} == set(ARCHITECTURES)


@CASES
@torch.no_grad()
def test_a_saved_model_is_imported_with_equal_logits_and_loss(model_type, options, tmp_path):
    theirs = original(model_type, options)
    theirs.save_pretrained(tmp_path)
    ours = resformer.from_pretrained(tmp_path)
    ids = tokens()
    got, expected = ours(ids, labels=ids), theirs(ids, labels=ids)
    assert expected.logits.std() > 0.1
    equal(got.logits, expected.logits)
    equal(got.loss, expected.loss)


@CASES
@torch.no_grad()
def test_padding_on_the_left_and_a_cache_change_nothing(model_type, options):
    theirs = original(model_type, options)
    ours = imported(theirs)
    ids, mask = tokens(), torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = {"attention_mask": mask, "position_ids": positions}
    seen = mask.bool()
    equal(ours(ids, **given).logits[seen], theirs(ids, **given).logits[seen])
    cut = 2 * WINDOW  # longer than a window, which the cache then no longer holds whole
    whole, first = ours(ids).logits, ours(ids[:, :cut], use_cache=True)
    rest = [first.logits]
    for step in range(cut, LENGTH):
        rest.append(ours(ids[:, step : step + 1], past_key_values=first.past_key_values).logits)
    equal(torch.cat(rest, 1), whole)


@CASES
def test_it_goes_back_with_equal_tensors_and_is_another_model(model_type, options):
    theirs = original(model_type, options)
    ours = imported(theirs)
    back = to_transformers(ours, model_type)
    assert type(back) is type(theirs)
    kept, found = theirs.state_dict(), back.state_dict()
    assert list(kept) == list(found)
    exact = not model_type.startswith("gemma")  # which stores its norms' weights less 1
    for name, tensor in kept.items():
        torch.testing.assert_close(found[name], tensor, atol=0 if exact else 1e-6, rtol=0)
    before = {name: tensor.clone() for name, tensor in kept.items()}
    with torch.no_grad():
        for parameter in [*ours.parameters(), *back.parameters()]:
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in theirs.state_dict().items())


def test_windows_and_caps_are_really_there():
    """Without them the logits would be others: what is equal above is not equal by chance."""
    model_type, options = next(case for case in MODELS if case[0] == "gemma2")
    ours = imported(original(model_type, options))
    for key in ("sliding_window", "attention_logit_softcapping", "attention_multiplier", "embedding_multiplier"):
        other = copy.deepcopy(ours.config)
        value = 1.0 if key == "embedding_multiplier" else None
        setattr(other, key, value)
        if key == "sliding_window":
            other.full_attention_every = None
        changed = type(ours)(other).eval()
        changed.load_state_dict(ours.state_dict())
        assert difference(ours, changed).largest > 1e-3, key


@torch.no_grad()
def test_generating_goes_on_with_a_window_and_a_static_cache():
    model_type, options = next(case for case in MODELS if case[0] == "gemma3_text")
    theirs = original(model_type, options)
    ours, ids = imported(theirs), tokens()[:, :9]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = theirs.generate(ids, **settings)
    assert torch.equal(ours.generate(ids, **settings), expected)
    assert torch.equal(ours.generate(ids, cache_implementation="static", disable_compile=True, **settings), expected)


REFUSED = [
    ("gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "a scale of the attention by depth"),
    ("gpt2", GPT2 | {"add_cross_attention": True}, "cross attention"),
    ("stablelm", SHAPE | {"qk_layernorm": True}, "a norm of its own for each head"),
    ("gemma3_text", GEMMA | {"use_bidirectional_attention": True}, "attention to later tokens"),
    ("qwen2", SHAPE | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}, "full attention"),
    ("smollm3", SHAPE, "no architecture known here"),
]


@pytest.mark.parametrize(("model_type", "options", "named"), REFUSED, ids=[named for *_, named in REFUSED])
def test_what_is_missing_here_is_said_in_one_line_before_any_weight_is_read(model_type, options, named, tmp_path):
    CONFIG_MAPPING[model_type](**options).save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ValueError, match=named) as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


def llama(**more):
    return imported(original("llama", SHAPE | {"tie_word_embeddings": True} | more))


BIT_EQUAL = [
    "hyper", "hyper(dynamic=false)", "frac", "denseformer", "denseformer(dilation=2)", "x0_mix", "layerscale(init=1)",
    "scaled(learned=true,per=vector)", "unet(init=0)", "unet(mode=concat)", "projection", "laurel(mode=lr)",
    "pre(gpas=true)", "momentum(gamma=0)", "two_lane(decay=1.0,cross=1.0)", "hyper*1,denseformer*1,x0_mix*1",
]  # fmt: skip
NEARLY = ["hyper(n=3)", "attn_res", "attn_res(routing=add)", "mhc", "mhc(variant=identity)", "gated(init=0.999)"]


@pytest.mark.parametrize("residual", BIT_EQUAL)
def test_kinds_that_begin_as_the_identity_over_pre_begin_bit_equal(residual):
    ours = llama()
    changed = rewire(ours, residual)
    assert difference(ours, changed.model) == (0, 0)
    assert changed.left_behind == []
    moved = rewire(randomise(changed.model), residual)  # its own weights are carried as well
    assert moved.anew == []
    assert difference(changed.model, moved.model) == (0, 0)


@pytest.mark.parametrize("residual", NEARLY)
def test_kinds_that_begin_nearly_so_are_near_and_not_equal(residual):
    ours = llama()
    apart = difference(ours, rewire(ours, residual).model)
    assert 0 < apart.largest < 0.02
    assert apart.divergence < 1e-5


def test_every_kind_can_be_put_in():
    ours = llama(num_hidden_layers=2)
    for kind in sorted(set(KINDS) - {"two_norms"}):
        found = rewire(ours, kind)
        assert math.isfinite(difference(ours, found.model).divergence), kind
        assert all(".attention." not in name or "norm" in name for name in found.anew), kind


def test_what_is_drawn_follows_the_seed_and_leaves_torch_alone():
    ours = llama()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, same, other = (rewire(ours, "highway", seed).model for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert difference(first, same).largest == 0
    assert difference(first, other).largest > 0


def test_a_wiring_that_the_class_has_not_does_not_go_back():
    ours = llama()
    assert type(to_transformers(ours)).__name__ == "LlamaForCausalLM"
    with pytest.raises(ValueError, match="llama cannot have residual 'hyper', only 'pre'"):
        to_transformers(rewire(ours, "hyper").model, "llama")
    with pytest.raises(ValueError, match="no class known here can hold this model"):
        to_transformers(rewire(ours, "hyper").model)
    with pytest.raises(ValueError, match="gpt2 cannot have"):
        to_transformers(ours, "gpt2")


def test_a_model_of_the_house_goes_to_the_first_class_that_can_hold_it():
    config = resformer.ResformerConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)
    ours = randomise(resformer.ResformerForCausalLM(config))
    theirs = to_transformers(ours)
    assert isinstance(theirs.config, LlamaConfig)
    assert difference(ours, theirs).largest < 1e-5
    learned = resformer.ResformerConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, norm="layernorm", position_embedding="learned",
        attention_bias=True, mlp_bias=True, gated_mlp=False,
    )  # fmt: skip
    assert isinstance(to_transformers(resformer.ResformerForCausalLM(learned)), GPT2LMHeadModel)


def test_a_checkpoint_of_half_precision_stays_so(tmp_path):
    GPT2LMHeadModel(GPT2Config(**GPT2)).to(torch.bfloat16).save_pretrained(tmp_path)
    assert resformer.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert resformer.from_pretrained(tmp_path, "hyper", dtype=torch.float32).dtype == torch.float32
