"""What holds for the whole session, notebooks included: their kernels inherit this process's environment."""

import os
import tempfile

import hypothesis
import pytest


def pytest_configure(config):
    # Rendered data and the libraries' own caches go to a folder that goes away; and what is not there by then is
    # not fetched, so that a test which would download fails.
    folder = tempfile.TemporaryDirectory(prefix="minildm-test-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    for name in ("MINILDM_CACHE", "HF_HOME", "HYPOTHESIS_STORAGE_DIRECTORY", "MPLCONFIGDIR", "IPYTHONDIR"):
        os.environ[name] = os.path.join(folder.name, name.lower())
        os.mkdir(os.environ[name])
    os.environ["HF_HUB_OFFLINE"] = "1"

    # The same examples in each run, and no deadline: a slow machine is no defect.
    hypothesis.settings.register_profile("minildm", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("minildm")


@pytest.fixture(scope="module", autouse=True)
def no_window():
    """Figures are drawn in memory. Not for the notebooks, whose figures belong into their outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        yield
