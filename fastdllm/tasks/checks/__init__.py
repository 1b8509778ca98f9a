"""What is refused or named of a task before anything is decoded; each module says what.

What is refused raises a UserError that names the first item, or the key of the file of the task.

When a task is loaded, and again when it is scored: metric_lists, file_texts, items (with labels).
When it is planned, columns and examples before lm-eval asks the items with dummy answers;
then labels, examples, prompts and target_scores look at that dry run (inspection).
"""
