"""The control plane: HTTP in, services called, HTTP out."""
