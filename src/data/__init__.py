"""Audio, prompts, MusicCaps and its downloads, and files that are written whole."""
