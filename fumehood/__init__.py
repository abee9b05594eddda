"""Fumehood: an automated ML scientist that runs where it cannot hurt anything."""

__version__ = "0.1.0"
