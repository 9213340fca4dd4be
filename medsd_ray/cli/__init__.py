"""The verbs of `medsd`."""
