"""Access control: tokens and grants, Host and Origin, limits."""
