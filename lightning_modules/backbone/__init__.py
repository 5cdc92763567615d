"""The diffusion backbone that all diffusion methods here share."""
