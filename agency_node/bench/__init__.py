"""Measurements on this machine: the encrypted scan against FAISS in the clear, and one whole search step by step.

Invariants: every figure comes from the functions that a node calls, on synthetic records that no person stands behind; a result is opened
and compared with the truth before a figure of it is reported. Nothing here is imported by a service. Arguments, tables and exit codes are
left to `agency_node.cli`.
"""
