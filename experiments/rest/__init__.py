"""The REST interface: how experiments are created and run, assignments and exposures, and OpenFeature's protocol.

A request passes `limits` (size) -> `auth` (key, right, rate) -> `bodies` (JSON to `documents`) -> an endpoint
(`management`, `assignments`, `units`, `ofrep`, `health`). `problems` turns every error into an answer, `openapi`
describes the interface, and `app` assembles the application.
"""
