"""The frozen program that draws an experiment's figures, inside a `plot` execution."""

from pathlib import Path

DRIVER = Path(__file__).parent / "driver.py"
