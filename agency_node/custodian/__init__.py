"""The custodian's part: mask shares and opened values come together once, at the deadline, and the few leads are released."""
