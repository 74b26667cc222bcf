"""Sweeps as jobs of a Ray cluster: submitted, followed, stopped and fetched through the cluster's Jobs port alone."""
