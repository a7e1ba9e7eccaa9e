import torch
from hypothesis import settings

# How long an example takes is no property of it: a machine that does other things is slow at any of them.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--residual", help="run tests/model/test_checks.py on this residual connection only, as my_module:MyClass"
    )
