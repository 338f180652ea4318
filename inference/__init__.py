"""The ItemSage model: tokenizer, training, Triton serving and retrieval."""
