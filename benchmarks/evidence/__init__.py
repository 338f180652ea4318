"""Reproduction of the paper: its baselines and ablations, trained on simulated logs, and the model card.

`python -m benchmarks.evidence` runs it; a run takes an hour or more, and continues where an earlier one stopped. It is
no part of the product. In the order of the data:

1. `catalogue`: read products with their image vectors.
2. `engagement_log`: simulate shoppers' engagements with them.
3. `variants`: the full model, and what differs in each baseline and ablation.
4. `training`: train every variant on every seed's log, and evaluate it.
5. `results`: the file that holds each finished training.
6. `directions`: the paper's claims, and whether the results support them.
7. `model_card`: write the model card with its tables; `picture` draws its figure.
"""
