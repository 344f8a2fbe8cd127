"""A cache that keeps hidden states: a network whose early exits have no heads of their own."""
