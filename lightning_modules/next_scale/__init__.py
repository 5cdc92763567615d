"""Next-scale autoregressive models: images scale by scale, as bits."""
