"""What a crash leaves behind: processes of agents, found and stopped, and agents that are stored as at work, ended."""
