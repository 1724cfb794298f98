"""The processes of command line agents: started, read, and stopped with all that they have started."""
