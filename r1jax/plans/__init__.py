"""Plans: several stages as one command, each in a process of its own."""
