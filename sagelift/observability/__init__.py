"""What can be seen of a consumer from outside: metrics, health, logs, and where to ask for them."""
