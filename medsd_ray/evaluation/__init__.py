"""Generated images measured against real ones."""
