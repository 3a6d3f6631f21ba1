"""Training of the model and of its codec."""
