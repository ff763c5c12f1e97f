"""Reading: networks as vectors on nodes, edges, pairs and weights, and the operations on these that methods share."""
