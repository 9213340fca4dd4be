"""Runs on a cluster, from a laptop."""
