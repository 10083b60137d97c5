"""Flows, decided purely: what a document means (``parse``), its order (``plan``), what happens next (``machine``)."""
