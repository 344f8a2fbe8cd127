"""The Fashion-MNIST network served with and without an exit policy, wall-clock measured."""
