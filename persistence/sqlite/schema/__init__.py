"""The numbered SQL migrations, as package data. Holds no code; `opening` runs them in order."""
