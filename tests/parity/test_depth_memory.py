"""Attention over depth keeps O(L) activations, as the paper says, and computes what its definition says."""

import pytest
import torch
from parity_helpers import build, some_tokens

from resformer.model.normalization import RMSNorm


def units_kept(residual, depth, autocast=False):
    """What a forward pass keeps for the backward pass, each storage once, in tensors of ``[batch, time, hidden]``;
    parameters are not counted."""
    model, tokens, kept = build(residual, depth, hidden_size=32, intermediate_size=96), some_tokens(2, 32), {}
    model = model.float().train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(input_ids=tokens, use_cache=False).logits
    total = sum(storage.nbytes() for storage in kept.values())
    del logits
    return total / (2 * 32 * 32 * 4)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("residual", ["attn_res", "attn_res(block=4)"])
def test_activations_grow_with_depth_and_not_with_its_square(residual, autocast):
    """Measured over ``pre``, which grows linearly: the extra for each block must not grow with depth."""
    extra = {depth: units_kept(residual, depth, autocast) - units_kept("pre", depth, autocast) for depth in (4, 8, 16)}
    later, earlier = (extra[16] - extra[8]) / 8, (extra[8] - extra[4]) / 4
    assert later < earlier + 3, extra  # weights over depth, [sources, batch, time], are a thirty-second of a unit each
    assert units_kept(residual, 16, autocast) < 1.35 * units_kept("pre", 16, autocast)


def test_it_is_attention_over_normed_sources():
    """Loss and gradients as of the definition, a softmax over depth of query times ``rmsnorm(v_i)``, to 1e-13."""
    model = build("attn_res", 3)
    attend, norm = model.model.layers[-1].mlp_residual.attend, RMSNorm(16, eps=1e-6).double()
    norm.weight = attend.norm.weight
    drawn = torch.randn(6, 2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for defined in (False, True):
        sources = drawn.clone().requires_grad_()
        if defined:
            weights = torch.softmax(norm(sources) @ attend.query, 0).unsqueeze(-1)
            read = (weights * sources).sum(0)
        else:
            read = attend(sources.unbind())
        gradients = torch.autograd.grad((read * direction).sum(), [sources, attend.query, attend.norm.weight])
        found.append([read, *gradients])
    for mine, definition in zip(*found, strict=True):
        torch.testing.assert_close(mine, definition, atol=1e-14, rtol=1e-13)


@pytest.mark.parametrize("residual", ["attn_res", "attn_res(block=3)", ["attn_res", "attn_res", "pre", "attn_res"]])
def test_every_query_gets_a_gradient(residual):
    model, tokens = build(residual, 4, noise=0.0), some_tokens()
    model(input_ids=tokens, labels=tokens).loss.backward()
    queries = [p for name, p in model.named_parameters() if name.endswith("query")]
    assert queries and all(query.grad.abs().max() > 0 for query in queries)


def test_alone_in_its_segment_it_is_pre_and_says_so():
    with pytest.warns(UserWarning, match="nothing to attend over"):
        alone = build({"attention": "attn_res", "mlp": "pre"}, 3)
    assert not any("query" in name for name, _ in alone.named_parameters())
    pre, tokens = build("pre", 3), some_tokens()
    pre.load_state_dict(alone.state_dict())
    assert torch.equal(alone(input_ids=tokens).logits, pre(input_ids=tokens).logits)


def test_partial_sums_of_blocks_are_in_float32_under_autocast():
    model, tokens, dtypes = build("attn_res(block=3)", 3).float(), some_tokens(), set()
    for block in model.model.layers:
        for residual in block.residuals:
            residual.register_forward_pre_hook(lambda module, inputs: dtypes.update(s.dtype for s in inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=tokens)
    assert dtypes == {torch.float32}
