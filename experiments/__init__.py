"""Experiments: assignment that can be recomputed, exposures that can be trusted, a life cycle that prevents mistakes.

In the order data passes:

    what an experiment is   `config` (and `targeting`, `attributes` within it), `files` (YAML that a team reviews),
                            `layers`, `metrics`
    how it lives            `lifecycle`, `neighbours`, `schedule` (rules, pure) -> `registry` (acts) -> `store`
                            (`tables`, `migrations`, `schema`, `engine`, `records`), `keys` and `roles`
    who gets which arm      `kernel` (a hash to buckets) -> `evaluator` (buckets to a `assignment`), `bulk` (a column),
                            `sql` (a warehouse), `vectors` (that all of them agree)
    in a service            `client` (configs in memory), `refresh` and `changes` (poll and push), `rest` (over HTTP),
                            `openfeature_provider`
    what is logged          `exposures` -> `events` (rows) -> `sink` (a batch, in one transaction), `engagements`
    beside A/B              `interleaving` (two rankings in one list)
    privacy                 `privacy` (tokens in place of unit ids, and their erasure)

The rules of assignment are numbered in docs/reference/assignment-spec.md. Nothing is imported here.
"""
