"""Metrics of tests and validations."""
