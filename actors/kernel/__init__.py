"""Actor types on Pykka's hooks: Pykka's API, our scheduler. Knows nothing of agents."""
