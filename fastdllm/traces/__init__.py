"""What a decoding did, step by step: its record, and how it is shown."""
