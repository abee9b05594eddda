"""What every process says of itself: logs, metrics and traces."""
