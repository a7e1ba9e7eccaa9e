"""``pytest tests/model --residual my_module:MyClass`` holds a person's own class to the checks of this house."""


def pytest_collection_modifyitems(config, items):
    if config.getoption("--residual"):
        items[:] = [item for item in items if item.path.name == "test_checks.py" and "checked" in item.fixturenames]
