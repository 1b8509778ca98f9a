"""Version numbers that others record."""

__version__ = "0.1.0"

# Part of every fingerprint. Raise it whenever decoded tokens may change for the same
# settings; the golden traces in tests/golden guard it.
DECODER_VERSION = 1
