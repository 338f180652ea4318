"""The installation: settings, clients, consumers, training, guardrails, the command line, the local stack, the demo.

Each module imports only from those below it:

    commands             the `sagelift` command, one module per noun
    demo                 the whole loop on real components
    releases, training, runs, run_card, guardrails, experiment_server, local_stack, sample_users
                         the work of the commands, as functions
    workers              the consumer processes
    observability        metrics, health, logs and status of the consumers
    services             makes clients and stores from the settings
    stack                the local stack: Kafka, Triton, supervised processes
    settings             all settings; `settings_reference` lists them
    progress, errors     used by all of them
"""

import os

# While OpenMP threads of torch wait, they spin and take the cores from the broker and the server on the same machine
# (measured: a forward pass six times slower). The variable must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
