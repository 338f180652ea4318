"""Benchmarks of speed and correctness: `python -m benchmarks NAME --json`; `python -m benchmarks list` lists them.

Each public module measures one part against a floor (the least that the task needs) or a peer (another library), in
alternating runs on the same machine, and compares the ratio with a goal. `harness` holds the shared parts. Modules
with an underscore are parts of one benchmark. `evidence` reproduces the paper's comparisons and is run separately:
`python -m benchmarks.evidence`.
"""
