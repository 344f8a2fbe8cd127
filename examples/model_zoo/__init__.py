"""A folder of eleven classifiers that nobody put in order: train them, and find out which one to ask when."""
