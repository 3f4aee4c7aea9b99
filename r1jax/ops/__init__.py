"""Arrays in, arrays out: no parameters, no configuration."""
