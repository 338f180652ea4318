"""The catalogue consumer: from `catalog.updates` to the feature store, the embeddings and the compacted topics.

pipeline        the three stages of a batch: features, embeddings, publishing
batch           what a batch is on its way through the stages, and its result
decoding        records -> valid updates, grouped by product
merging         which updates count, and what a product is after them (pure)
offer_updates   the fast path: updates of price and availability only
features        the general path: merge, load images, write features
images          fetch images within limits, decode them, cache their vectors
embed           features -> embeddings, also for re-embedding a whole catalogue
settled         which products may take the fast path
"""
