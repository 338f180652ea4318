"""The local stack: a real Apache Kafka broker and a real Triton server as supervised child processes.

`components` fetches them, `process` and `guardian` run one child so that nothing outlives us, `server` is what all
servers have in common, `kafka` and `triton` know one each, `stack` starts, watches, restarts and stops them all
(`sagelift up | status | down`).
"""
