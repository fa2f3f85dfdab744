"""The command line: a module for each group of verbs, which are declared in `app`."""
