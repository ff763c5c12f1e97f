"""``python -m ngbench.cli``."""

from ngbench.cli import main

main()
