"""The state machine of an object, as pure functions."""
