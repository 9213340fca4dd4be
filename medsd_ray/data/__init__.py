"""From images and reports to shards, and from shards to batches in an order that no number of workers
changes.
"""
