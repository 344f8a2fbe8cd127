"""Methods: how a policy is found. One paper, one file; one row each in the catalogue."""
