"""The schema's history, one Alembic revision per step; a fresh database is made by running them all.

A revision is never edited once it is released: it imports nothing of this package, so that what it did to a database
last year is what it does today. `tables` states what they add up to, and a test compares the two.
"""
