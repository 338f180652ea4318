"""Catalogue updates and shop events through Kafka: contracts, feeds, consumers, dead letters."""
