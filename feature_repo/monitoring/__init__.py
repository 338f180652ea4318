"""How fresh and complete the features are.

`watch` collects the status of every view from its history. `canary` compares two model versions on a few products.
`findings` says what passes a threshold; `prometheus` writes all figures in Prometheus's text format.
"""
