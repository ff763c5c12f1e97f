"""Takes value rows of networks on topologies with what is known of them; gives zoo files, and reads them back as a `Zoo`.

The only door to HDF5. Knows splits by run and what a zoo file must hold; does not know tasks, batches or methods.
"""

from ngbench.store.card import draw_histogram, histogram_edges, main_measurement, parameters_each, summary, update_card
from ngbench.store.generation import generate
from ngbench.store.reader import Zoo
from ngbench.store.released import RELEASED, ReleasedZoo, open_zoo
from ngbench.store.schema import ZooInfo
from ngbench.store.verification import Check, verify
from ngbench.store.writer import ZooWriter

__all__ = [
    "RELEASED",
    "Check",
    "ReleasedZoo",
    "Zoo",
    "ZooInfo",
    "ZooWriter",
    "draw_histogram",
    "generate",
    "histogram_edges",
    "main_measurement",
    "open_zoo",
    "parameters_each",
    "summary",
    "update_card",
    "verify",
]
