"""Other people's training loops on every state that a wiring keeps: TRL's supervised fine-tuning, PEFT's adapters.

They come with ``pip install -e ".[tools]"``; where they are not installed these tests skip.
"""

import json

import pytest
import torch
import yaml
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.data.tokenizing import byte_tokenizer

KINDS = ["pre", "hyper", "attn_res", "pre*1,mhc*1"]
TEXT = "the quick brown fox jumps over a lazy dog while seven wizards mix bold potions. "


def small(residual: str, **others) -> ResformerForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = ResformerConfig(**shape, num_attention_heads=4, max_position_embeddings=64, residual=residual, **others)
    return ResformerForCausalLM(config)


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(300, (3, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("residual", KINDS)
def test_supervised_fine_tuning_with_packing(residual, checkpointing, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    rows = Dataset.from_list([{"text": TEXT[: 20 + i]} for i in range(60)])
    arguments = trl.SFTConfig(
        str(tmp_path), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, lr_scheduler_type="constant",
        use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, packing=True, max_length=32, logging_steps=1,
        gradient_checkpointing=checkpointing, save_strategy="no",
    )  # fmt: skip
    trainer = trl.SFTTrainer(small(residual), args=arguments, train_dataset=rows, processing_class=byte_tokenizer())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("residual", KINDS)
def test_adapters_train_save_merge_and_reload(residual, tmp_path):
    peft = pytest.importorskip("peft")
    model, ids = small(residual).eval(), ids_of(16)
    before = model(ids).logits
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM"))
    assert torch.equal(adapted(ids).logits, before)
    frozen = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(5):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(p, frozen[name]) for name, p in adapted.named_parameters() if name in frozen)
    expected = adapted.eval()(ids).logits.detach()
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(small(residual), tmp_path / "adapter").eval()
    assert_close(again(ids).logits, expected, rtol=0, atol=1e-6)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert_close(reloaded(ids).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", KINDS)
def test_accelerates_own_checkpoints_go_on_bit_by_bit(residual, tmp_path):
    from accelerate import Accelerator

    ids = ids_of(16)

    def loop(steps: int, folder=None) -> dict[str, torch.Tensor]:
        accelerator = Accelerator(cpu=True)
        model = small(residual)
        model.gradient_checkpointing_enable()
        model, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters(), lr=1e-2))
        if folder is not None:
            accelerator.load_state(str(folder))
        for _ in range(steps):
            accelerator.backward(model(ids, labels=ids).loss)
            optimizer.step()
            optimizer.zero_grad()
        if folder is None:
            accelerator.save_state(str(tmp_path / f"after-{steps}"))
        return accelerator.get_state_dict(model)

    whole = loop(4)
    loop(2)
    again = loop(2, tmp_path / "after-2")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("residual", KINDS)
def test_placed_by_accelerate_it_gives_the_same_logits(residual, tmp_path):
    model, ids = small(residual).eval(), ids_of(16)
    model.save_pretrained(tmp_path)
    placed = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto").eval()
    assert_close(placed(ids.to(placed.device)).logits.cpu(), model(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", KINDS)
def test_integers_of_eight_bits(residual):
    quantization = pytest.importorskip("torchao.quantization")
    model, ids = small(residual).eval(), ids_of(16)
    exact = model(ids).logits.detach()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    found = model(ids).logits
    assert 0 < (found - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("residual", KINDS)
def test_exported_it_gives_the_same_logits_at_other_lengths(residual):
    model, ids = small(residual, use_cache=False).eval(), ids_of(16)
    length = torch.export.Dim("length", min=2, max=64)
    exported = torch.export.export(model, (ids,), dynamic_shapes=({1: length},), strict=False)
    other = ids_of(21)
    assert_close(exported.module()(other).logits, model(other).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["pre", "hyper"])
def test_evaluated_by_the_harness_on_tasks_from_local_files(residual, tmp_path):
    """A likelihood and a generation task from YAML and JSON lines; the likelihood is that of the logits."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    model, tokenizer = small(residual).eval(), byte_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"text": f"The {word} fox", "choices": [" jumps", " sleeps"], "answer": 0} for word in ("quick", "brown")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "doc_to_text": "{{text}}", "target_delimiter": "", "num_fewshot": 0,
    }  # fmt: skip
    tasks = {
        "chosen": {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"},
        "written": {"output_type": "generate_until", "doc_to_target": " jumps",
                    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}},
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    for name, task in tasks.items():
        text = yaml.safe_dump({"task": name, **shared, **task})
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    found = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": str(tmp_path / "model"), "device": "cpu", "dtype": "float32"},
        tasks=list(tasks), task_manager=TaskManager(include_path=str(tmp_path / "tasks")), batch_size=2,
    )  # fmt: skip
    assert set(found["results"]) == set(tasks)
    assert len(found["samples"]["written"]) == 2
    sample = found["samples"]["chosen"][0]
    context, continuation = tokenizer(rows[0]["text"])["input_ids"], tokenizer(" jumps", add_special_tokens=False)
    ids = torch.tensor([context + continuation["input_ids"]])
    log_probabilities = model(ids).logits.log_softmax(-1)[0, len(context) - 1 : -1]
    expected = log_probabilities.gather(1, ids[0, len(context) :, None]).sum().item()
    assert sample["filtered_resps"][0][0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("residual", KINDS)
def test_onnx_gives_the_same_logits_at_other_lengths(residual, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, ids, other = small(residual, use_cache=False).eval(), ids_of(16), ids_of(21)
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.onnx.export(model, (ids,), dynamo=True, verbose=False, dynamic_shapes=({1: length},))
    program.save(str(tmp_path / "model.onnx"))
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits, *_) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    assert_close(torch.from_numpy(logits), model(other).logits, rtol=0, atol=1e-4)
