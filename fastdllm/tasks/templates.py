"""Templates of a task that are compiled once, where lm-eval compiles them anew for each item.

That takes a millisecond each time, most of the plan of a task with many items. What a template
gives stays lm-eval's to read: a text that it would take for a number or a list is left to it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import env

# Of all tasks of a group: some texts each.
compiled = lru_cache(maxsize=1000)(env.from_string)


class CompiledTask(ConfigurableTask):
    """A task of lm-eval that prints the same texts, faster."""

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> Any:
        template = self._template(doc_to_text, self.config.doc_to_text)
        if template is not None and not (text := template.render(**doc)).isdigit():
            return text
        return super().doc_to_text(doc, doc_to_text)

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> Any:
        template = self._template(doc_to_target, self.config.doc_to_target)
        if template is not None:
            text = template.render(**doc)
            if not text.isdigit() and not text.startswith("["):
                return text
        return super().doc_to_target(doc, doc_to_target)

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
        template = self._template(doc_to_choice, self.config.doc_to_choice)
        if template is not None:
            return ast.literal_eval(template.render(**doc))
        return super().doc_to_choice(doc, doc_to_choice)

    def doc_to_prefix(self, doc: Mapping[str, Any]) -> Any:
        template = self._template(self.config.gen_prefix)
        return super().doc_to_prefix(doc) if template is None else template.render(**doc)

    @staticmethod
    def resolve_field(doc: Mapping[str, Any], field: str | None = None) -> Any:
        if not field:
            return None
        return doc[field] if field in doc else compiled(field).render(**doc)

    def _template(self, *of_call_or_task: Any) -> Template | None:
        """Return the first that is given, as a template; None for what is none."""
        given = next((text for text in of_call_or_task if text is not None), None)
        is_template = isinstance(given, str) and given not in self.features
        return compiled(given) if is_template and self.prompt is None else None
