"""Online stores for Feast in which the newest version of a product always wins.

* `base`: the methods that Feast calls. They use a few operations that differ between databases.
* `sqlite`, `postgres`, `redis`: these operations for one database each.
* `vector_search`: exact nearest-neighbour search over the rows of any store.
"""
