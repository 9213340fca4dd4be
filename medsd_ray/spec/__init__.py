"""All that a user can write, and the CRDs that are made from it."""
