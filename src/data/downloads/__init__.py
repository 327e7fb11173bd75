"""Reference audio of MusicCaps: sections of YouTube videos, as WAV files with a manifest.

settings: the command line. command: what it does, and what it prints. fetching: all clips, several
at a time, politely. source: one clip, by yt-dlp and ffmpeg. failures: why a clip could not be had.
manifest: what is known about each clip. Runs in the downloader's environment.
"""
