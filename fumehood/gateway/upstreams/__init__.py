"""Where the gateway sends a call."""
