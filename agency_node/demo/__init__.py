"""`sealmatch demo`: a whole federation on this machine, one search, and what every party saw of it, computed from the bytes that passed."""
