"""Sealmatch's cryptographic core: one encrypted search, its grants and its proofs, without a network."""
