"""A folder of a dozen classifiers that nobody put in order: train them, and find out which one to ask when."""
