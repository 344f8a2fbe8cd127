"""Train a multi-exit network on Fashion-MNIST and export its logits as a policyopt cache."""
