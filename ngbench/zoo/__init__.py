"""Takes a recipe and the indices of runs; gives trained networks with what was asked and measured of each.

Knows image corpora, architectures and optimisers; knows nothing of neural graphs, files, tasks or methods.
"""
