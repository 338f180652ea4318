"""Catalogue updates and shop events through Kafka, from feed files to the feature store, the topics and SQL.

    feeds         feed files -> product updates
    kafka         connection, topics, codec and producers; the schema registry
    consumer      the loop that reads, handles and commits batches
    catalogue     catalog.updates -> feature store, embeddings, product.embeddings and product.offers
    events        events -> the experiment database
    vectors       product.embeddings and product.offers: publishing, and following them into a retrieval index
    dead_letters  messages that cannot be used: writing, reading, replaying
    release       a new model: embed the catalogue, compare, switch

`contracts` defines all messages, `errors` all errors, `feature_store` the interface of the feature store;
`currency` has the decimal places of currencies, `tracing` the `traceparent` of messages.
"""
