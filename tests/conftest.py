"""Options and fixtures of all tests."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--golden", type=Path, default=ROOT.parent / "shared" / "golden", help="folder of the originals' records"
    )


@pytest.fixture(scope="session")
def golden_dir(request) -> Path:
    folder = request.config.getoption("--golden")
    if not folder.is_dir():
        pytest.skip(f"the originals' records are not here ({folder}); --golden DIR says where they are")
    return folder


def pytest_collectstart():
    """Data that a test file draws while it is imported is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
