"""Shop events from Kafka to SQL, and exposures to Kafka.

topic `events` -> `sink` (decode, check, reject) -> `conversion` (message to row) -> the experiment store
exposure logger -> `exposures` -> `conversion` (row to message) -> topic `events`
"""
