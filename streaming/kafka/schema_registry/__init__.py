"""The schema registry: its client, our contracts as schemas, and the codec that frames messages with schema ids."""
