"""Settings of the tests of ops."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)  # "package" would last until the end of all tests
def several_threads() -> Iterator[None]:
    """Let ops divide their work, also where tests/conftest.py leaves each process one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    yield
    torch.set_num_threads(threads)
