"""Callbacks: metrics, EMA, sample images, results, and the writer of enlarged images.

To add a metric: subclass `ImageMetric` (a number for each image) or `SetMetric` (one for the whole
set) and name the class under `trainer.callbacks`.
"""
