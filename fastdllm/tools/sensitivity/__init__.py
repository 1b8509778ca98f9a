"""Which layers can be reused, measured along the plain trajectory."""
