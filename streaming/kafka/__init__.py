"""Access to Kafka.

`connection.Connection` is the entry point: it makes all clients and has the codec of all messages.

    connection       clients with our settings
    handshake        explains why a first connection fails
    codec            messages <-> bytes; JSON
    schema_registry  messages <-> bytes with the schemas of a registry
    topics           names and settings of the topics
    topic_admin      create and check the topics
    producers        publishers of updates and events
    compacted        writing compacted topics, and resuming a reader of them
    lag              how far a consumer group is behind
"""
