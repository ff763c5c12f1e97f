"""Fitting: the one training loop and its steps, the shell of trained methods, boosting and perceptrons on tables of features."""
