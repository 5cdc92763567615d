"""Every method trained small on photographs, beside its controls."""
