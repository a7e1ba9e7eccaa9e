"""layers.parquet while it grows: what it costs a long run in memory."""

import subprocess
import sys

# As 2,500 steps of a small run write it: 20 rows a step, a checkpoint every 100.
SCRIPT = """
import random, sys
from pathlib import Path
import psutil
from resformer.stability.table import LayerTable

table, megabytes = LayerTable(Path(sys.argv[1]), 0), {}
for step in range(1, 2501):
    table.append(step, [(random.randrange(3), "attention", "some_metric", random.random()) for _ in range(20)])
    if step % 25 == 0:
        table.write_if_grown()
    if step % 100 == 0:
        table.write()
    megabytes[step] = psutil.Process().memory_info().rss / 2**20
print(megabytes[2500] - megabytes[300], table.saved.nbytes / 2**20)
"""


def test_memory_grows_with_the_rows_and_not_with_the_times_they_are_written(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "layers.parquet")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, rows = map(float, done.stdout.split())
    assert 1 < rows < 4
    assert grown < rows + 5
