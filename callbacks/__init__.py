"""What watches a run: metrics, EMA, pictures, results, the writer of enlarged images.

To add a metric: subclass `ImageMetric` and name the class under `trainer.callbacks`.
"""
