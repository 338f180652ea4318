"""Training: from a catalogue and its engagements to a model that can be released.

The modules, in the order in which data passes through them:

* `engagements`: what shoppers did after a query, and the tasks that follow from it.
* `packed`, `pairs`, `dataset`: products and engagements as arrays; the training set.
* `config`, `config_file`: the options of a run and their files.
* `search`: trains the search encoder, which is then frozen.
* `sketch`, `sampling`: draw the batches and estimate how often each product is drawn (logQ).
* `losses`, `itemsage_loss`, `baselines`, `encoders`, `optimiser`, `distributed`, `loop`: ItemSage's training loop.
* `evaluation`: Recall@k per task and coverage on held-out pairs, against the *Sum* baseline.
* `result`, `report`: a finished run and its folder.
* `pipeline`: all of this in memory (`train`).
* `checkpoint`, `run`: all of this on disk, resumable after a kill (`prepare_run`, `continue_run`).

`python -m inference.training RUN` trains a prepared run, under `torchrun` in several processes.
"""
