"""The ItemSage model: tokenizer, training, Triton serving and retrieval."""

import os

# Read once, when torch is loaded. A thread that waits for another sleeps instead of spinning: beside a broker and an
# inference server, spinning takes the core from the very thread that is waited for (training then took 3 to 5 times
# the CPU seconds).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
