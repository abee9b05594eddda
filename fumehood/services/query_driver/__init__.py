"""The frozen program that asks an experiment's model, inside a `query` execution."""

from pathlib import Path

DRIVER = Path(__file__).with_name("driver.py")
