"""The client of the models on Triton: it turns product inputs into vectors and names the model version.

The modules, in the order in which a request passes through them:

* `embedder`: a release's tokenizer and the client together; the usual entry point.
* `client`: `TritonClient`, which checks the inputs and offers `embed`, `encode_images`, `probe` and administration.
* `batching`: groups products with similar numbers of images, so that little padding is sent.
* `requests`: builds the tensors of one request and encodes it.
* `dispatch`: keeps several requests in flight, handles failures and checks answers.
* `failures`, `circuit`: the kinds of failed requests, and when to stop sending to a server that does not answer.
* `channel`: the gRPC channel with TLS.

Retries: `failures` decides which failures are retried, `dispatch` retries them for `max_elapsed_s` seconds (an argument
of `TritonClient`), and `circuit` refuses requests while the server does not answer.
"""
