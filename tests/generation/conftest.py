import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small run faster on one thread, and beside another test process much faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
