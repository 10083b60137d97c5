"""Readers of older flow documents: each is translated once, at load, into the one document form. Pure.

Invariants:
  * A translation means exactly what the older document meant, as far as its format says it; what has no exact
    translation is refused with its place and with what to write instead. Nothing is ignored.
  * What comes out is a document of the one form, read by ``parse`` like any other: an older document has no right and
    escapes no bound that a new one would not.
  * Each part of the translation knows the place in the older document that it came from.

One module for each style: ``pipelines`` (A), ``registered`` (B), ``phases`` (C), ``modifier_file`` and
``modifier_value``; what they share: ``texts`` (interpolation, conditions), ``writing`` (places, problems, names).
"""
