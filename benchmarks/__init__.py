"""Speed and correctness figures: python -m benchmarks NAME --json."""
