"""Measurements that a maintainer runs by hand: ours against a peer, in turns, in one run."""
