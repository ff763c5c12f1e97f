"""Takes value rows of networks on topologies with what is known of them; gives zoo files, and reads them back as a `Zoo`.

The only door to HDF5. Knows splits by run and what a zoo file must hold; does not know tasks, batches or methods.
"""

from ngbench.store.card import draw_histogram, histogram_edges, main_measurement, parameters_each, summary, update_card
from ngbench.store.download import download_zoo
from ngbench.store.generation import generate
from ngbench.store.held_out import HeldOutOutputs, held_out_path
from ngbench.store.importing import import_zoo
from ngbench.store.merged import merge
from ngbench.store.outline import update_outline
from ngbench.store.published import PUBLISHED, PublishedZoo
from ngbench.store.reader import Zoo
from ngbench.store.reevaluation import Reevaluation, reevaluate
from ngbench.store.released import RELEASED, ReleasedZoo, open_zoo
from ngbench.store.schema import ZooInfo
from ngbench.store.verification import Check, verify
from ngbench.store.writer import ZooWriter

__all__ = [
    "PUBLISHED",
    "RELEASED",
    "Check",
    "HeldOutOutputs",
    "PublishedZoo",
    "Reevaluation",
    "ReleasedZoo",
    "Zoo",
    "ZooInfo",
    "ZooWriter",
    "download_zoo",
    "draw_histogram",
    "generate",
    "held_out_path",
    "histogram_edges",
    "import_zoo",
    "main_measurement",
    "merge",
    "open_zoo",
    "parameters_each",
    "reevaluate",
    "summary",
    "update_card",
    "update_outline",
    "verify",
]
