"""The requester's part: a still becomes a search, answers are opened and sent on, leads arrive, photographs are asked for."""
