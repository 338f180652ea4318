"""Experiments: assignment, exposures and the store behind them."""
