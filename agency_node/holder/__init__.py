"""The holder's part: records are enrolled, probes answered under grant and policy, leads shown as stubs, photographs disclosed."""
