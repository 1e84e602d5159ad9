"""What holds for every run of pytest, notebooks included: their kernels inherit this process's environment."""

import os
import signal
import tempfile
import threading

import hypothesis
import pytest

collect_ignore_glob = ["notebooks/homework/*"]  # tests/test_homework.py has nbgrader run these, once


def pytest_configure(config):
    # Rendered data and the libraries' own caches go to a folder that goes away; and what is not there by then is
    # not fetched, so that a test which would download fails. Workers (-n 2) share the folder of who started them.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="minildm-test-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        for name in ("MINILDM_CACHE", "HF_HOME", "HYPOTHESIS_STORAGE_DIRECTORY", "MPLCONFIGDIR", "IPYTHONDIR"):
            os.environ[name] = os.path.join(folder.name, name.lower())
            os.mkdir(os.environ[name])
        os.environ["HF_HUB_OFFLINE"] = "1"

    # Workers share the cores, too: two of one thread each are faster than two that take all of them.
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

    # glibc hands each large block back to the system when it is freed, and is given it again page by page, for nearly
    # every large tensor: a tenth to a quarter of the time of a training step. Kernels and workers keep what they have.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**28))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))

    config.option.loadscopereorder = False  # see pytest_collection_modifyitems

    # The same examples in each run, and no deadline: a slow machine is no defect.
    hypothesis.settings.register_profile("minildm", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("minildm")


def pytest_collection_modifyitems(items):
    """What takes minutes a file comes first, then files of seconds, so that no worker ends long before the other.

    Left to itself, xdist begins with the files that hold most tests: the shortest ones.
    """

    def place(item):
        name = item.nodeid.partition("::")[0]
        return [name.endswith("test_homework.py"), "evidence/" in name, name.endswith(".ipynb"), True].index(True)

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A cell that took too long fails, and the cells after it are skipped, since they lack what it was to make.

    Left to itself, nbval expects them to fail, and counts each that does not as one more failure. A kernel that died
    is to nbval a cell that does not end.
    """
    if getattr(item.parent, "timed_out", False):
        pytest.skip("an earlier cell of this notebook took too long, or ended its kernel")


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C works in tests and in what they start, though a shell has what it runs in the background ignore it."""
    ignored = (
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread()
    )
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
