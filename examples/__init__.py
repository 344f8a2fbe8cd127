"""The whole way from training to deployment; each example runs in continuous integration."""
