"""Pairs of a near-silent recording and its music: the pair folder, harvesting, and prepared shards."""
