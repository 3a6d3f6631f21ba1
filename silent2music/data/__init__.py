"""Pairs of a silent take and its music: made, checked, prepared and read."""
