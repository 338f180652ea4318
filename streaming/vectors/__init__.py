"""Vectors: publish embeddings and offers on compacted topics, and follow both into a search index in memory.

Data passes through the modules in this order:

    embeddings      stored embeddings -> `product.embeddings`, published until topic and store agree
    offers          stored products -> `product.offers`, likewise, and -> the filter attributes of the index
    publisher       `CompactedPublisher`: from messages to records on `product.embeddings` and `product.offers`
    follower        `IndexFollower`: reads both topics and resumes where a saved index stopped
    index_updates   `IndexUpdater`: from records to changes of the index
    followed_index  `FollowedIndex`: an index with its follower, its upkeep, its saved copy and its recall monitor
    rebuild         builds an index once, from the topics or from the feature store
"""
