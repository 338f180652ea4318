"""The command line, the settings, the local stack and the demo that puts the rooms together."""

import os

# Threads of torch's OpenMP spin while they wait; beside a broker and a server they take the cores from whoever works
# (measured: a forward pass six times slower). Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
