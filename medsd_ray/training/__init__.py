"""The loop, and what a worker does around it."""
