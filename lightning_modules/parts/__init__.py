"""Parts of methods that are trained by themselves: autoencoders, tokenizers, LPIPS in latents."""
