"""A study: trials by Ray Tune, and what they say together."""
