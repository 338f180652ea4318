"""The schema registry, with Confluent's interface: messages carry the id of their schema, in JSON or Avro.

* `schemas`: our contracts as Avro and JSON Schema
* `client`: registers our schemas and asks for the schemas of ids
* `codec`: `RegistryCodec`, messages <-> bytes, framed with the id of their schema
"""
