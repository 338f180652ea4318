"""Online stores for Feast in which the newest version of a product always wins.

* `base`: what Feast calls, in terms of the few operations that differ between databases.
* `sqlite`, `postgres`, `redis`: those operations on one database each.
* `vector_search`: exact nearest-neighbor search over the rows of any of them.
"""
