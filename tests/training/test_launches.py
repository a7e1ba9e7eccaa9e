"""The launch configurations that are shipped, and what a launch asks for that a run answers in its own way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

from resformer.training.launch import make_accelerator, takes_over_fsdp

FILES = sorted((Path(__file__).parents[2] / "recipes" / "accelerate").glob("*.yaml"))
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--config_file")


def named(name: str) -> str:
    return str(next(file for file in FILES if file.stem == name))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_each_is_a_configuration_of_accelerate(file):
    told = yaml.safe_load(file.read_text())
    read = ClusterConfig.from_yaml_file(str(file))
    assert read.num_processes == told["num_processes"] >= 1
    assert read.distributed_type.value == told["distributed_type"]
    assert file.read_text().startswith("# ")


def test_fsdp_is_taken_over_and_accelerate_hears_no_more_of_it(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert takes_over_fsdp()
    assert os.environ["ACCELERATE_USE_FSDP"] == "false"
    assert not takes_over_fsdp()


@pytest.mark.slow
def test_a_launch_that_asks_for_fsdp_splits_the_weights(train):
    result = train("fsdp", launcher=(*LAUNCH, named("fsdp2"), "--main_process_port", "0"))
    assert result.returncode == 0, result.stderr
    assert "recorder   off: the weights are split" in result.stdout
    assert "shard: true" in (train.folder / "fsdp" / "config.yaml").read_text()
    assert train.summary("fsdp")["processes"] == 2


@pytest.mark.parametrize("option", ["OFFLOAD_PARAMS", "ACTIVATION_CHECKPOINTING"])
def test_what_splitting_does_not_do_is_one_line(option, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv(f"FSDP_{option}", "true")
    with pytest.raises(ValueError, match=f"fsdp_{option.lower()}"):
        takes_over_fsdp()


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_what_steps_a_model_by_itself_is_refused_in_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=r"train\.shard") as error:
        make_accelerator(str(tmp_path), [])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one_do(train):
    """Two launches on this one."""
    both = ("--main_process_port", "29617")
    first, second = (
        subprocess.Popen(
            train.command("machines", launcher=(*LAUNCH, named("two-machines"), *both, "--machine_rank", str(rank))),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=train.environment,
        )
        for rank in (0, 1)
    )  # fmt: skip
    for process in (first, second):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    result = train("two-here", launcher=(*LAUNCH, named("cpu-2"), "--main_process_port", "0"))
    assert result.returncode == 0, result.stderr
    assert train.metrics("machines") == train.metrics("two-here")
