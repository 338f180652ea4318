"""Access to Kafka.

    connection       clients with our settings; the connection's codec
    handshake        why a first connection fails, in words
    topics           names and settings of the topics
    topic_admin      create and check the topics
    codec            messages <-> bytes; JSON
    schema_registry  messages <-> bytes with the schemas of a registry
    producers        publishers of updates and events
    compacted        writing compacted topics, and resuming a reader of them
    lag              how far a consumer group is behind

`connection.Connection` is the entry point: it makes all clients and holds the codec of all messages.
"""
