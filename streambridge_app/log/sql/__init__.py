"""The statements of each database, and what they are made of."""
