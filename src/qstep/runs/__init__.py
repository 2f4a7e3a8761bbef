"""What makes a run repeatable: resumable files, settings and fingerprints, provenance, progress, shared options."""
