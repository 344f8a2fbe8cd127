"""Fitting answers: calibration of class probabilities and of the confidence in them."""
