"""Train early-exit networks in nine ways and cache their logits, to compare models."""
