import pytest


@pytest.fixture(scope="session", autouse=True)
def threads(one_torch_thread):
    """Every test here."""
