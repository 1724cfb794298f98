"""The numbered SQL migrations, as package data. Holds no code; `sqlite_file` runs them in order."""
