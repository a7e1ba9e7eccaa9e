"""A connection that changes with training: what it is at a step, who carries the step, and who moves it on."""

import pytest
import torch
from model_helpers import build, subject, tokens
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import resformer
from resformer.model.rewiring import rewired, with_residual

PLACEMENTS = ["pre", "post", "sandwich", "deepnorm", "lns"]


def scales(model) -> list[float]:
    found = [[residual.c(torch.float64).item() for residual in block.residuals] for block in model.model.layers]
    assert all(attention == mlp for attention, mlp in found)  # a schedule of blocks, not of sites
    return [attention for attention, _ in found]


def count(model) -> set[int]:
    return {int(buffer) for name, buffer in model.named_buffers() if name.endswith(".t")}


@pytest.mark.parametrize("schedule, steps, expected", [
    ("linear", 0, [0, 0, 0, 0]),
    ("linear", 5, [1 / 2, 1 / 4, 1 / 6, 1 / 8]),
    ("linear", 20, [1, 1, 2 / 3, 1 / 2]),
    ("linear_sqrt", 10, [1, 0.5**0.5, 3**-0.5, 1 / 2]),
    ("linear_square", 10, [1, 1 / 4, 1 / 9, 1 / 16]),
    ("equal", 10, [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
    ("reverse", 10, [1 / 4, 1 / 3, 1 / 2, 1]),
    ("stagewise_0", 15, [1, 1 / 2, 0, 0]),
    ("stagewise_L", 15, [1, 5 / 8, 1 / 4, 1 / 4]),
    ("stagewise_sqrt_l", 35, [1, 1, 1, 3 / 4]),
    *((schedule, 40, [1, 1, 1, 1]) for schedule in ("linear_sqrt", "equal", "reverse", "stagewise_0", "stagewise_L")),
])  # fmt: skip
def test_of_four_blocks_and_forty_steps(schedule, steps, expected):
    """Worked out by hand from table 5 of arXiv:2603.05369."""
    model = subject({"kind": "prores", "schedule": schedule, "warmup_steps": 40}).fresh()
    model.advance(steps)
    assert scales(model) == pytest.approx(expected, abs=1e-15)


def test_by_default_the_first_block_takes_a_thousand_steps():
    model = subject("prores").fresh()
    model.advance(1000)
    assert scales(model) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


def test_a_warm_up_takes_at_least_a_step():
    with pytest.raises(ValueError, match="warmup_steps is 0; it must be greater than 0"):
        subject("prores(warmup_steps=0)").fresh()


@pytest.mark.parametrize("norm", PLACEMENTS)
def test_it_starts_with_the_weights_of_the_kind_of_its_norm_and_ends_as_it(norm):
    plain, model = (subject(residual).fresh() for residual in (norm, {"kind": "prores", "norm": norm}))
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in plain.named_parameters())
    plain, model = (build(residual).double() for residual in (norm, {"kind": "prores", "norm": norm}))
    assert not torch.allclose(model(tokens()).logits, plain(tokens()).logits)
    model.advance(4000)
    torch.testing.assert_close(model(tokens()).logits, plain(tokens()).logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_checkpoint_carries_the_step(dtype, tmp_path):
    model = subject("prores(warmup_steps=3000)").fresh()
    model.advance(2047)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert count(loaded) == count(loaded.to(torch.float16)) == {2047}
    assert scales(loaded) == scales(model)


def test_another_wiring_keeps_the_step_or_starts_at_none(tmp_path):
    model = build("prores(warmup_steps=1000)")
    model.save_pretrained(tmp_path)
    longer = resformer.from_pretrained(str(tmp_path), residual="prores(warmup_steps=2000)")
    assert count(longer) == {500}
    assert scales(longer) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    found = rewired(with_residual(model.config, "pre"), model.state_dict())
    assert {name.rpartition(".")[2] for name in found.left_behind} == {"t"}
    again = rewired(model.config, found.model.state_dict())
    assert count(again.model) == {0}
    assert {name.rpartition(".")[2] for name in again.anew} == {"t"}


@pytest.mark.parametrize("residual", ["prores(warmup_steps=4)", "prores(norm=post, schedule=reverse, warmup_steps=4)"])
def test_steps_compile_nothing_anew(residual):
    torch._dynamo.reset()
    counter = CompileCounter()
    model = subject(residual).fresh().train()
    twin = subject(residual).fresh().train()
    for block in model.model.layers:
        block.compile(backend=counter, fullgraph=True)
    counts = []
    for _ in range(6):
        losses = [one(tokens(), labels=tokens()).loss for one in (model, twin)]
        torch.testing.assert_close(*losses)
        counts.append(counter.frame_count)
        for one in (model, twin):
            one.advance()
    assert counts == [counts[0]] * 6


def test_whoever_trains_otherwise_moves_it_on(tmp_path):
    """By a callback of transformers' trainer; two micro batches are one step."""

    class Advance(TrainerCallback):
        def on_step_end(self, args, state, control, model, **rest):
            model.advance()

    rows = [{"input_ids": row, "labels": row} for row in tokens(8)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=5, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True,
        report_to=[], save_steps=3, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(subject("prores").fresh(), arguments, train_dataset=rows, callbacks=[Advance()])
    trainer.train()
    assert count(trainer.model) == {5}
    again = Trainer(subject("prores").fresh(), arguments, train_dataset=rows, callbacks=[Advance()])
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert count(again.model) == {5}
