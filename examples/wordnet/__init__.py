"""Train a multi-exit text transformer on WordNet's definitions and export its logits as a policyopt cache."""
