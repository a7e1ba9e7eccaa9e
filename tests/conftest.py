import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--residual", help="run tests/model/test_checks.py on this residual connection only, as my_module:MyClass"
    )
