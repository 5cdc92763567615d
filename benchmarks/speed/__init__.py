"""Speed and agreement: ours against a peer, in one run."""
