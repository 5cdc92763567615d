"""Stages: the single steps of a degradation."""
