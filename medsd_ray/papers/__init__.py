"""A paper's experiment in one command: its steps, what they measured, and what that says of its claims."""
