"""The subcommands of the `commitcast` command."""
