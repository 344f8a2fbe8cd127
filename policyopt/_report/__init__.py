"""Reports: what a policy does, how far confidence can be trusted, and the pictures of all results."""
