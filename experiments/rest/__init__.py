"""The REST interface: how experiments are made and run, assignments and exposures, and OpenFeature's remote protocol.

`app` puts it together; `auth` and `limits` say who may ask and how much, `documents` what is said, `problems` what is
said when it cannot be done; `management`, `assignments` and `ofrep` are the endpoints. Nothing is imported here.
"""
