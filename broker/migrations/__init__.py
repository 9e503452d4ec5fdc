"""How the broker's schema came to be, step by step (Alembic). `store` runs what is missing whenever it opens a database."""
