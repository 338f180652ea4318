"""Experiments: assignment that anyone can recompute, exposures, and the store behind them.

In the order data passes: `config` (what an experiment is) -> `kernel` (hash to buckets) -> `evaluator`
(buckets to a `decision`) -> `client` (what a service holds in memory) -> `exposures` (what it logs) ->
`events` (rows of the sink) -> `store` (SQL; `tables`, `lifecycle`). The rules are numbered in
docs/assignment-spec.md. Nothing is imported here.
"""
