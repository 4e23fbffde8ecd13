"""Settings that must stand before ray, mlflow or torch is imported, and markers that skip what cannot run here."""

from __future__ import annotations

import importlib.util
import os

import pytest

for name, value in {
    "OMP_NUM_THREADS": "1",  # torch follows it, here and in processes that tests start
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: Tune prints nothing
    "RAY_AUTH_MODE": "token",  # the default; explicit means no warning
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

if importlib.util.find_spec("hypothesis"):  # bare GPU machines run the `cuda` tests without it
    from hypothesis import settings

    settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
    settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the `cuda` tests where there is no GPU; torch is imported only if there are such tests.

    Where several processes share the tests (`make test`), a file stays in one of them, which makes its fixtures once, and
    all that start Ray in the same one, since two Rays at a time would want more processors than there are.
    """
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
