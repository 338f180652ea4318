"""A consumer seen from outside: its health, metrics and logs, and the commands and pages that show them.

In a consumer's process: `monitor` combines the loop's signs into a `health` state and the `metrics`; `server` answers
over HTTP; `logs` formats the log. In other processes: `scrape` reads those answers, `stream_status` summarizes all
consumers, `stream_table` prints them. `feature_page` draws the features' state as HTML, and `triton_probe` checks
Triton with inferences of known answers.
"""
