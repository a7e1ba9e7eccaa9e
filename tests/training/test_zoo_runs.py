"""Kinds with a state of their own (streams, lanes, histories) in whole runs."""

import sys

import pytest

# in float32: what bfloat16 makes of another order of the same sums depends on the processor
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no", "--num_processes")
ONE, TWO = (*LAUNCH, "1"), (*LAUNCH, "2", "--multi_gpu")
STATEFUL = ("--model.residual", "[hyper, {attention: mhc(n=2), mlp: attn_res}]")


@pytest.fixture(scope="module")
def one_process(train):
    result = train("stateful", *STATEFUL, launcher=ONE)
    assert result.returncode == 0, result.stderr
    return train.metrics("stateful")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, launcher",
    [
        (("--train.micro_batch_size", "2"), TWO),
        (("--train.gradient_checkpointing", "true"), ONE),
    ],
    ids=["two processes with accumulation", "gradient checkpointing"],
)
def test_the_same_losses(train, one_process, flags, launcher):
    name = "stateful-" + flags[0].rpartition(".")[2]
    result = train(name, *STATEFUL, *flags, launcher=launcher)
    assert result.returncode == 0, result.stderr
    for expected, found in zip(one_process, train.metrics(name), strict=True):
        assert found["step"] == expected["step"]
        for key in ("loss", "val_loss"):
            # AdamW makes whole steps of the rounding in gradients that are nearly zero (streams that are still alike)
            assert found.get(key) == pytest.approx(expected.get(key), abs=2e-6 if found["step"] == 2 else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "residual",
    ["hyper", "hyper(dynamic=false)", "mhc", "mhc(head=learned)", "frac", "attn_res", "attn_res(block=4)",
     "denseformer", "unet", "unet(mode=concat)", "concat", "x0_mix", "siamese", "residual_dual", "two_lane", "momentum",
     "reversible", "laurel"],
)  # fmt: skip
def test_twelve_blocks_learn_the_embedded_corpus_with_the_default_recipe(train, residual):
    shape = "--model.hidden_size 64 --model.num_hidden_layers 12 --data.sequence_length 64 --data.tokenizer bpe:2048"
    steps = "--train.max_steps 60 --train.save_every 60 --train.eval_every 60 --train.log_every 20"
    name = f"deep-{residual}"
    result = train(name, "--data.source", "stdlib", *shape.split(), *steps.split(), "--model.residual", residual)
    assert result.returncode == 0, result.stderr
    summary = train.summary(name)
    assert summary["status"] == "completed"
    assert summary["skipped_updates"] == 0
    assert summary["end_state"] in ("ok", "spiked-recovered")
    assert summary["val_loss"] < summary["unigram_entropy"] - 0.1  # within that, a run is stuck
