"""First stages, trained before a method: autoencoders, tokenizers, LPIPS in latents."""
