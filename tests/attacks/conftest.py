"""One batch for all tests of this folder."""

import pytest
from attacked import Batch, make_batch


@pytest.fixture(scope="session")
def batch(tmp_path_factory) -> Batch:
    return make_batch(tmp_path_factory)
