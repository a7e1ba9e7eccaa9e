import os

import pytest
from run_helpers import Runs

os.environ["RESFORMER_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))
