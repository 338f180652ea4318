"""Alembic revisions of the experiment database. `tables` describes the result; a test compares the two.

Do not edit a revision once it is released: databases that have it are not migrated to it again. A later change of the
schema is a new revision.
"""
