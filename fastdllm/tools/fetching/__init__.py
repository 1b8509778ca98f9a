"""Models and data sets brought to where jobs find them. Knows no decoding and no scores."""
