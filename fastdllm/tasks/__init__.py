"""Tasks as lm-eval knows them: task files, planned requests, prompts, answer text, metrics.

Decodes nothing and knows no run.

In the order in which a task passes through:

- task_source, task_files, data_files, task_metadata: the files behind a name; no lm-eval.
- lm_eval_setup: the environment that lm-eval needs; lm_eval_tasks: all that asks it to load or
  evaluate, by local_tasks (templates compiled once) and local_data (rows of JSON and CSV).
- checks/: what is refused or named of a task before anything is decoded.
- planning: from a task to its plan, with lm_eval_models (which collects or replays requests),
  pairs (token ids of options) and generation (until, budgets, answer text); plan: its files.
- metrics: what lm-eval's result says. lm_eval_copies: a task of lm-eval's own, as files here.
"""
