"""Rows in, rows out: loading, prompt templates, chat templates, packing."""

from hfcourse.data.chat_templates import chat_template, chat_templates, set_chat_template
from hfcourse.data.endless import endless_stream
from hfcourse.data.loading import load_dataset
from hfcourse.data.packing import Separators, pack_documents
from hfcourse.data.static_masks import static_masks
from hfcourse.data.templates import PromptTemplate, apply_template

__all__ = [
    "PromptTemplate",
    "Separators",
    "apply_template",
    "chat_template",
    "chat_templates",
    "endless_stream",
    "load_dataset",
    "pack_documents",
    "set_chat_template",
    "static_masks",
]
