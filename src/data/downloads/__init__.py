"""Reference audio of MusicCaps: sections of YouTube videos, as WAV files with a manifest."""
