"""One evaluation without an experiment: a task, a model, settings; as a command and from Python.

Plans, decodes and scores as the workflow does, by the same commands, into results/_single.
"""
