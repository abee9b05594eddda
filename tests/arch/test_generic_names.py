"""`api`, `worker` and `sandbox` are names that others could ship too; here they are ours."""

from __future__ import annotations

import importlib.util
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "sandbox", "fumehood")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_ships_a_package_of_this_name(package: str) -> None:
    assert set(packages_distributions().get(package, ())) <= {"fumehood"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_that_is_imported_lies_in_this_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)
