"""`python -m commitcast`: the command."""

from commitcast.actors.cli import main

if __name__ == "__main__":
    main()
