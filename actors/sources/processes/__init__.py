"""The processes of command line agents: started, read, found, and stopped with all that they have started."""
