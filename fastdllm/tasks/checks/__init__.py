"""What is refused or named of a task before anything is decoded; each module says what.

When a task is loaded, and again when it is scored: metric_lists, file_texts, items (with labels).
When it is planned, columns and examples before lm-eval asks the items with dummy answers;
then examples again, repeats, prompts and target_scores look at what it asked.
"""
