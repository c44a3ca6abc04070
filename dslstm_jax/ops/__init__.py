"""Arrays in, arrays out: no config, no Flax."""
