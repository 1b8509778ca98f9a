"""What a person would look at before a grid is submitted, looked at in seconds.

findings.py is the vocabulary; each other module looks at one thing and gives one line per finding;
examine.py asks them all at once.
"""
