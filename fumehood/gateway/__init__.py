"""The one process between us and every model."""
