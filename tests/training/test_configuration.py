"""What a person types: every mistake is one line that names the key."""

import itertools
from contextlib import nullcontext

import pytest
import torch
import yaml

from resformer.training.config import parse_arguments
from resformer.training.optimizers import Float32, build_optimizers, lr_factor


def test_flags_and_yaml_say_the_same(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: {num_hidden_layers: 3, residual: {attention: pre, mlp: peri}}\noptimizer: {learning_rate: 1e-4}\n"
    )
    from_yaml = parse_arguments(["--config", str(file)])
    from_flags = parse_arguments(
        [
            "--model.num_hidden_layers",
            "3",
            "--model.residual",
            "{attention: pre, mlp: peri}",
            "--optimizer.learning_rate",
            "1e-4",
        ]
    )
    assert from_yaml.as_dict() == from_flags.as_dict()
    assert from_yaml.optimizer.learning_rate == 1e-4
    assert from_yaml.model_config(vocab_size=5).residual == {"attention": "pre", "mlp": "peri"}


def test_resolved_configuration_repeats_the_run(tmp_path):
    config = parse_arguments(["--seed", "7", "--model.residual", "post*1,pre*rest", "--data.document_mask", "true"])
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(config.as_dict()))
    assert parse_arguments(["--config", str(file)]).as_dict() == config.as_dict()


def test_seed_sets_all_three_unless_one_is_given():
    config = parse_arguments(["--seed", "5", "--data_seed", "9"])
    assert (config.init_seed, config.data_seed, config.dropout_seed) == (5, 9, 5)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model.hidden_sise", "64"], "model.hidden_size"),
        (["--optimizer.lerning_rate", "1"], "optimizer.learning_rate"),
        (["--train.max_steps", "many"], "train.max_steps"),
        (["--train.max_steps", "0"], "train.max_steps"),
        (["--optimizer.learning_rate", "-1"], "optimizer.learning_rate"),
        (["--schedule.name", "cosin"], "schedule.name"),
        (["--schedule.min_lr_ratio", "2"], "schedule.min_lr_ratio"),
        (["--data.validation_fraction", "0.9"], "validation_fraction"),
        (["--data.sequence_length", "64", "--model.max_position_embeddings", "32"], "max_position_embeddings"),
        (["--model.residual", "highwey"], "'highway'"),
        (["--model.residual", "layerscale(int=1)"], "'init'"),
        (["--model.residual", "post*1,pre*9"], "num_hidden_layers is 4"),
        (["--model.residual", "my_module:Missing"], "my_module:Missing"),
        (["--model.num_attention_heads", "3"], "num_attention_heads"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["stray"], "stray"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(flags, named):
    with pytest.raises(ValueError) as error:
        parse_arguments(flags)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {hidden_sise: 3}", "'model.hidden_size'"),
        ("modle: {hidden_size: 3}", "'model.hidden_size'"),
        ("model: [", "bad.yaml"),
        ("seed: x", "bad.yaml"),
        ("[1, 2]", "bad.yaml"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, text, named):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        parse_arguments(["--config", str(file)])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "constant"])
def test_schedules_rise_then_end_at_the_ratio(name):
    schedule = parse_arguments(["--schedule.name", name, "--schedule.warmup_steps", "10"]).schedule
    factors = [lr_factor(step, 100, schedule) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(factors) <= 1
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))
    end = lr_factor(100, 100, schedule)
    assert end == pytest.approx(1.0 if name == "constant" else schedule.min_lr_ratio)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_every_parameter_is_optimised_once_and_as_it_asks(name):
    from resformer import ResformerForCausalLM

    config = parse_arguments(["--optimizer.name", name, "--model.residual", "scaled(learned=true)*1,rezero*rest"])
    model = ResformerForCausalLM(config.model_config(vocab_size=32))
    hints = model.optimizer_hints()
    names = {id(p): n for n, p in model.named_parameters()}
    seen = []
    for optimizer in build_optimizers(model, config.optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                hint = hints[names[id(parameter)]]
                assert group["lr"] == pytest.approx(config.optimizer.learning_rate * hint.learning_rate_multiplier)
                assert group["weight_decay"] == pytest.approx(
                    config.optimizer.weight_decay * hint.weight_decay_multiplier
                    if name != "sgd" or hint.weight_decay_multiplier
                    else 0
                )
                seen.append(id(parameter))
    assert sorted(seen) == sorted(names)
    assert hints["model.layers.0.attention_residual.a"].learning_rate_multiplier == 0.01
    assert hints["model.layers.0.attention_residual.norm.weight"].weight_decay_multiplier == 0


def test_muon_orthogonalises_in_float32_where_a_run_is_in_float32():
    """Against the iteration in float64, with the constants of Jordan et al. 2024."""
    gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    x = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    expected = -0.2 * 40**0.5 * x  # match_rms_adamw
    found = []
    for context in (Float32(), nullcontext()):
        weight = torch.nn.Parameter(torch.zeros(24, 40))
        weight.grad = gradient.clone()
        optimizer = torch.optim.Muon([weight], lr=1.0, momentum=0.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        with context:
            optimizer.step()
        assert torch.equal(weight.grad, gradient)
        found.append((weight.detach().double() - expected).abs().max() / expected.abs().max())
    assert found[0] < 1e-5
    assert found[1] > 1e-3
