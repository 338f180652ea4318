"""Lift of a treatment over a control, with tests a statistician would sign. Imports nothing of our other packages."""
