"""Keeps the last seconds of a source, and writes parts of it to video files.

In come a source's compressed pictures, or its frames where it has none; out go files that begin and
end when the caller says. What is compressed already is not encoded again: `ring` holds packets,
`packet_file` writes them, `encoding` makes them of frames, and `recorder` ties these together in a
thread of its own. `cutting` takes parts out of files. Nothing here knows of recognition.
"""
