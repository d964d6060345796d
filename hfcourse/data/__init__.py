"""Rows in, rows out: loading, prompt templates, packing."""

from hfcourse.data.loading import load_dataset
from hfcourse.data.packing import Separators, pack_documents
from hfcourse.data.static_masks import static_masks
from hfcourse.data.templates import PromptTemplate, apply_template

__all__ = ["PromptTemplate", "Separators", "apply_template", "load_dataset", "pack_documents", "static_masks"]
