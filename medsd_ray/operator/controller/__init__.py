"""The edge of the operator: kopf, the API server, the work queue, the sweep."""
