"""Reference audio of MusicCaps: sections of YouTube videos, as WAV files with a manifest.

settings: the command line. reasons: why a clip could not be had. source: one clip, by yt-dlp and
ffmpeg. manifest: what is known about each clip. fetching: all of them, several at a time, politely.
checking: the files against the manifest. Runs in the downloader's environment.
"""
