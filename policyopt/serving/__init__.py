"""Serving staged PyTorch models: batches whose survivors are regrouped after every exit."""
