"""Retrieval: nearest products in memory, changed in place, filtered, saved and monitored; one model version per index.

A vector passes through the modules in this order:

* `index`: the public class; it locks, checks its arguments and calls the other modules.
* `rows`, `filters`: the products with their vectors, versions and attributes, in columns.
* `unlinked`: vectors that are not in the graph yet; a search compares with each of them.
* `graph`: usearch's HNSW graph.
* `search`, `candidates`: find the nearest products in the graph and among the unlinked vectors, and filter them.
* `rebuild`: builds a new graph while the index changes.
* `storage`: saves and loads an index.
* `live`: switches to an index of another model version.
* `monitor`: estimates the recall of the live queries.
"""

from inference.retrieval.candidates import Candidates
from inference.retrieval.filters import Attributes, Filter
from inference.retrieval.graph import HnswSettings
from inference.retrieval.index import RetrievalIndex
from inference.retrieval.live import Live
from inference.retrieval.monitor import MonitorSettings, RecallEstimate, RecallMonitor

__all__ = [
    "Attributes",
    "Candidates",
    "Filter",
    "HnswSettings",
    "Live",
    "MonitorSettings",
    "RecallEstimate",
    "RecallMonitor",
    "RetrievalIndex",
]
