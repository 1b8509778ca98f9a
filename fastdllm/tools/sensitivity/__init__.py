"""Which layers can be reused, measured along the plain trajectory. Knows no run and no score."""
