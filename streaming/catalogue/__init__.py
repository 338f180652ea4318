"""The catalogue consumer: from `catalog.updates` to the feature store, the embeddings and the compacted topics.

A batch passes through these modules:

    pipeline        the three stages of a batch: features, embeddings, publishing
    decoding        records -> valid updates, grouped by product
    offer_updates   the fast path: updates of only price and availability of settled products
    features        the general path: merge, load images, write features
    images          fetch images within limits, decode them, cache their vectors
    embed           features -> embeddings in the store, also for re-embedding a whole catalogue

They share: `batch` (what a batch is between the stages), `merging` (which updates apply, and the resulting product;
pure) and `settled` (which products may take the fast path).
"""
