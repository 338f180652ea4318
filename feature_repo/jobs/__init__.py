"""Jobs over the history: bringing it into the online store, on this machine or on Spark.

`materialize` runs one `view_run` per view, as its `request` says. A run leaves out the `seen_parts` of the history,
makes a `plan` of the rows that are left, has an `engine` (this process, or `spark`) write them in `shards`, records
each shard in the `journal`, and reads all of them back (`reconciliation`). `summary` is what a scheduler reads.

`engine` knows nothing of features: any job that works on shards can use it.
"""
