"""Product features in Feast: definitions, guarded stores, history."""
