"""What holds for the tests and not for the notebooks."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_window():
    """Figures are drawn in memory. Not for the notebooks, whose figures belong into their outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        yield
