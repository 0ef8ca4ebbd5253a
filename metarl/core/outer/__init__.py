"""Outer steps: how meta-parameters move along a meta-gradient."""
