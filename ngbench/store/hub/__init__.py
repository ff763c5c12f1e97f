"""Takes a zoo; gives a Hugging Face dataset folder, and the same zoo file back from such a folder, here or on the Hub.

A folder holds ``README.md`` (the dataset card), ``croissant.json``, ``ngbench.json`` (what the file needs beside the tables) and
Parquet tables: ``data/`` (one row a network), ``topologies/`` and ``diverged/``. Published zoos whose networks are repositories
of the Hub are streamed. Knows no HTTP of its own.
"""

from ngbench.store.hub.from_folder import import_dataset
from ngbench.store.hub.remote import ADDRESS, download, push
from ngbench.store.hub.streaming import stream_zoo
from ngbench.store.hub.to_folder import export_dataset

__all__ = ["ADDRESS", "download", "export_dataset", "import_dataset", "push", "stream_zoo"]
