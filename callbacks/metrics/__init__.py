"""Metrics of validation and test."""
