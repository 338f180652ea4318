"""ItemSage: the product embedding model, its training, serving on Triton, and retrieval.

* `inputs`, `arrays`: what the model reads of a product; array types.
* `words`, `vocabulary_index`, `tokenizer`: text fields to token ids.
* `visual`, `visual_cache`: images to frozen vectors, and their cache.
* `model`: the ItemSage network, from images and tokens to one unit vector. It reads like the paper.
* `training`: engagements and a catalogue to a trained model.
* `releases`: a trained model to a release in Triton's model repository.
* `triton_models`: the backends that Triton runs.
* `triton`: the client that asks Triton for vectors.
* `queries`: searches, images and users to vectors in the same space.
* `retrieval`: vectors to the nearest products.
* `mixing`, `recommend`: the nearest products to the recommendations of the shop's surfaces.
* `errors`, `locks`: the errors of the package; a lock on a folder.
"""

import os

# torch reads the variable once, when it is loaded. A thread that waits for another then sleeps instead of spinning.
# Beside a broker and an inference server, spinning takes the core from the very thread that it waits for (training then
# took 3 to 5 times the CPU seconds).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
