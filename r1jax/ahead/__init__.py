"""What the programs of a run need, before anything is started."""
