"""How `models/tiny` was made: problems, tokenizer, training, measurements."""
