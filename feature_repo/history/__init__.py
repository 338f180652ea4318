"""The history of every view: append-only Parquet parts below `<home>/history/<view>`.

* `parts`: the layout of a part, and reading rows of many parts by row number in bounded memory.
* `writer`: appending a part. `compaction`: merging small parts.
* `as_of`: the rows that were current at a time. `arrow_rows`: Arrow columns into rows of the online store.
* `offline`: Feast's offline store over these parts.
"""
