"""What the operator makes on Kubernetes, as pure functions."""
