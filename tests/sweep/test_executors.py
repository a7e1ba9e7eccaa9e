"""Another executor gives the same table, and goes on with what one began; a cluster that is not there is one line."""

import json
import signal
import socket
import subprocess
import time

import pytest
from sweep_helpers import command, definition, environment, sweep

SMALL = {"grid": {}, "learning_rates": {"grid": [3e-3, 1e-2], "extend_by": 1}}
RAY = ("--executor.name", "ray", "--executor.workers", "2")
SLURM = ("--executor.name", "slurm", "--executor.slurm", '{"cluster": "local"}', "--executor.workers", "2")


def summaries(folder) -> dict:
    files = sorted((folder / "sweep" / "trials").glob("*/summary.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def starts(folder) -> dict[str, int]:
    return {file.parent.name: len(file.read_text()) for file in (folder / "sweep" / "trials").glob("*/runs")}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    assert sweep(folder, definition(folder, **SMALL)).returncode == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("flags", [RAY, SLURM], ids=["ray", "slurm"])
def test_it_goes_on_with_what_the_local_executor_began_and_ends_with_the_same_figures(local, tmp_path, flags):
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[flags[1]])
    here = definition(tmp_path, **SMALL)
    begun = subprocess.Popen(command(tmp_path, here), stdout=subprocess.DEVNULL, env=environment(TENTHS="5"))
    deadline = time.monotonic() + 90
    while len(summaries(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    done = set(summaries(tmp_path))
    result = sweep(tmp_path, here, *flags)
    assert result.returncode == 0, result.stderr
    assert summaries(tmp_path) == summaries(local)
    assert {name for name, count in starts(tmp_path).items() if count == 1} >= done


@pytest.mark.slow
@pytest.mark.parametrize("flags", [RAY, SLURM], ids=["ray", "slurm"])
def test_a_trial_that_kills_its_process_takes_no_other_with_it(tmp_path, flags):
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[flags[1]])
    arms = {"pre": {"model.residual": "pre"}, "dies": {"optimizer.weight_decay": 0.5}}
    here = definition(tmp_path, arms=arms, controls={}, grid={}, learning_rates={"grid": [3e-3], "extend_by": 0})
    result = sweep(tmp_path, here, *flags, "--executor.retries", "1")
    assert result.returncode == 1
    assert set(summaries(tmp_path)) == {f"pre_lr=0.003_seed={seed}" for seed in (9, 0, 1, 2)}
    assert starts(tmp_path)["dies_lr=0.003_seed=9"] == 2
    assert "Traceback" not in result.stderr
    assert "dies_lr=0.003_seed=9 failed" in result.stderr


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    from resformer.sweeps.config import ExecutorConfig
    from resformer.sweeps.executors import make_executor

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nowhere = [ExecutorConfig("slurm"), ExecutorConfig("slurm", slurm={"cluster": "local", "partitoin": "x"})]
    nowhere += [ExecutorConfig("ray", address=f"127.0.0.1:{port}"), ExecutorConfig("ray", address="nonsense")]
    for config in nowhere:
        pytest.importorskip({"ray": "ray", "slurm": "submitit"}[config.name])
        with pytest.raises(ValueError, match="executor") as error:
            make_executor(config, str(tmp_path))
        assert "\n" not in str(error.value)
