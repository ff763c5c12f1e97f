"""Speed and memory on the machine where it runs: takes benchmarks, methods and cases, gives what `ngbench bench` prints.

Knows what is timed, and how fast the authors' code is; does not know what the answers of a method are worth.
"""
