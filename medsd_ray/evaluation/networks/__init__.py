"""The networks that figures look through."""
