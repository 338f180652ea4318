"""Retrieval: nearest products in memory, changed in place, filtered, saved, watched; one model version per index."""

from inference.retrieval.filters import Attributes, Filter
from inference.retrieval.graph import HnswSettings
from inference.retrieval.index import Candidates, RetrievalIndex
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
