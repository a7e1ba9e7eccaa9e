"""transformers' Trainer, saving and loading on every state that a wiring keeps: a stream, several, a history, a mix."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from resformer import ResformerConfig, ResformerForCausalLM

KINDS = ["pre", "post", "hyper", "denseformer", "attn_res", "pre*1,hyper*1"]


def small(residual: str, **others) -> ResformerForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = ResformerConfig(**shape, num_attention_heads=4, max_position_embeddings=32, residual=residual, **others)
    return ResformerForCausalLM(config)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(61, (8, 16), generator=torch.Generator().manual_seed(1))


def trained(folder, residual: str, tokens: torch.Tensor, **others) -> tuple[Trainer, float]:
    """A trainer after eight steps, and the loss before them."""
    model = small(residual)
    with torch.no_grad():
        before = model(tokens, labels=tokens).loss.item()
    arguments = TrainingArguments(
        str(folder), max_steps=8, per_device_train_batch_size=8, learning_rate=1e-2, lr_scheduler_type="constant",
        use_cpu=True, report_to=[], save_steps=4, disable_tqdm=True, **others,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    return trainer, before


@pytest.mark.parametrize("residual", KINDS)
def test_transformers_trainer_trains_evaluates_and_goes_on(residual, tokens, tmp_path):
    trainer, before = trained(tmp_path, residual, tokens)
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    assert trainer.evaluate(rows)["eval_loss"] < 0.9 * before
    again = Trainer(small(residual), trainer.args, train_dataset=rows)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name, weight in trainer.model.state_dict().items():
        assert_close(again.model.state_dict()[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("residual", KINDS)
def test_gradient_checkpointing_in_the_trainer_changes_no_weight(residual, tokens, tmp_path):
    plain, _ = trained(tmp_path / "plain", residual, tokens)
    saving, _ = trained(tmp_path / "saving", residual, tokens, activation_checkpointing=True)
    for name, weight in plain.model.state_dict().items():
        assert_close(saving.model.state_dict()[name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("residual", KINDS)
def test_sharded_checkpoints_come_back_bit_by_bit(residual, tokens, tmp_path):
    model = small(residual).eval()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("residual", KINDS)
def test_more_tokens_leave_the_logits_of_the_old_ones(residual, tied, tokens, tmp_path):
    model = small(residual, tie_word_embeddings=tied).eval()
    before = model(tokens).logits
    model.resize_token_embeddings(70)
    after = model(tokens).logits
    assert after.shape[-1] == model.config.vocab_size == 70
    assert_close(after[..., :61], before, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(tokens).logits, after)


@pytest.mark.parametrize("residual", KINDS)
def test_bfloat16_is_what_loading_asks_for(residual, tokens, tmp_path):
    model = small(residual).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16").eval()
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    exact, rounded = model(tokens).logits, loaded(tokens).logits.float()
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
