"""What is said of an optimiser step, against the step written out."""

import pytest
import torch
from stability_helpers import batch, build, wide

from resformer.stability.steps import OptimizerWatch, changes, snapshot, step_rows

WEIGHT = "model.layers.2.mlp.down_proj.weight"
PLACE = (2, "mlp")


def descend(model, optimizer, inputs) -> dict[str, torch.Tensor]:
    """One step; the gradients that it was given."""
    optimizer.zero_grad()
    model(**inputs, use_cache=False).loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    return gradients


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a @ b / a.norm() / b.norm()).item()


def test_one_step_of_gradient_descent_goes_down_the_gradient():
    """Plain SGD moves each weight by rate times gradient."""
    model, inputs = build(), batch()
    before = snapshot(model)
    gradients = descend(model, torch.optim.SGD(model.parameters(), lr=0.1), inputs)
    rows = wide(step_rows(model, before, changes(before, model), gradients, {}))
    expected = (0.1 * gradients[WEIGHT].norm() / before[WEIGHT].norm()).item()
    assert rows[*PLACE, "update_to_weight.down_proj"] == pytest.approx(expected, rel=1e-3)
    whole = (0.1 * flat(gradients).norm() / flat(before).norm()).item()
    assert rows[-1, "model", "update_to_weight"] == pytest.approx(whole, rel=1e-3)
    for place in (PLACE, (0, "attention"), (-1, "embedding"), (-1, "model")):
        assert rows[*place, "update_gradient_cosine"] == pytest.approx(-1, abs=1e-4)
    assert not any(metric.startswith("update_cosine") for *_, metric in rows)


def test_cosines_of_steps_with_momentum_are_those_of_the_vectors():
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, betas=(0.5, 0.9))
    seen = []
    for seed in range(3):
        before = snapshot(model)
        gradients = descend(model, optimizer, batch(seed=seed))
        seen.append(({name: model.get_parameter(name).detach() - old for name, old in before.items()}, gradients))
        rows = step_rows(model, before, changes(before, model), gradients, seen[-2][0] if seed else {})
    (one, _), (two, gradients) = seen[1:]
    rows = wide(rows)
    assert rows[-1, "model", "update_cosine"] == pytest.approx(cosine(flat(one), flat(two)), abs=1e-5)
    assert rows[-1, "model", "update_gradient_cosine"] == pytest.approx(cosine(flat(two), flat(gradients)), abs=1e-5)
    pair = (one[WEIGHT].double().flatten(), two[WEIGHT].double().flatten())
    assert rows[*PLACE, "update_cosine.down_proj"] == pytest.approx(cosine(*pair), abs=1e-5)


def test_staleness_of_second_moments_is_that_of_the_gradients_so_far():
    """``v`` from its definition: the weighted mean of all squared gradients."""
    model, beta, eps = build(), 0.9, 1e-8
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.5, beta), eps=eps)
    watch = OptimizerWatch(model, [optimizer])
    history = []
    for seed in range(3):
        watch.expect(everything=seed == 2)
        history.append(descend(model, optimizer, batch(seed=seed)))
        if seed < 2:
            assert [row[:3] for row in watch.rows()] == [(-1, "embedding", "rms_t.embed_tokens")]
    rows = wide(watch.rows())

    def by_hand(name):
        squares = [gradients[name].double().square() for gradients in history]
        weights = [beta ** (2 - t) for t in range(3)]
        v = sum(w * g for w, g in zip(weights, squares, strict=True)) / sum(weights)
        return (squares[-1] / v.clamp(min=eps**2)).mean().sqrt().item()

    assert rows[*PLACE, "rms_t.down_proj"] == pytest.approx(by_hand(WEIGHT), rel=1e-4)
    table = by_hand("model.embed_tokens.weight")
    assert rows[-1, "embedding", "rms_t.embed_tokens"] == pytest.approx(table, rel=1e-4)
    assert all(torch.equal(watch.gradients[name], g) for name, g in history[-1].items())
    watch.expect(everything=False)
    assert watch.rows() == []  # of a step that was not taken nothing is said


def test_muon_has_no_second_moments_and_its_gradients_are_seen():
    model = build()
    matrices = [p for name, p in model.named_parameters() if "_proj.weight" in name]
    watch = OptimizerWatch(model, [torch.optim.Muon(matrices, lr=0.01)])
    watch.expect(everything=True)
    descend(model, torch.optim.Muon(matrices, lr=0.01), batch())
    assert not watch.gradients  # another optimiser's step
    watch = OptimizerWatch(model, [optimizer := torch.optim.Muon(matrices, lr=0.01)])
    watch.expect(everything=True)
    descend(model, optimizer, batch())
    assert len(watch.gradients) == len(matrices)
    assert watch.rows() == []


def test_gradients_lost_beside_eps_are_counted():
    model, eps = build(), 1e-8
    optimizer = torch.optim.AdamW(model.parameters(), eps=eps)
    watch = OptimizerWatch(model, [optimizer])
    watch.expect(everything=True)
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, (9 if i < 3 else 11) * eps)
    optimizer.step()
    rows = wide(watch.rows())
    assert rows[-1, "model", "gradients_below_eps"] == pytest.approx(3 / len(list(model.parameters())))
