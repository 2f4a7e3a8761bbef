"""Parts of a repeatable run: resumable files, settings, fingerprints, provenance, progress and shared options."""
