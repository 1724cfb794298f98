"""Who may connect and what they may do: tokens, grants, origins, limits and rates."""
