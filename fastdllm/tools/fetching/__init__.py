"""Models and data sets brought to where jobs without network find them."""
