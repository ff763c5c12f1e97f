"""Many runs as one: takes a suite and a folder, runs its cells, each in a process of its own, gives what became of each.

Knows in what order cells run, and on how many processes or machines; does not know how a run is scored, or progress shown.
"""
