"""The program of an agency: requester, holder and custodian by configuration."""
