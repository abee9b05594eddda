"""Ways to wake the workers."""
