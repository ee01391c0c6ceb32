"""An archive of videos: one row for every video of a list, whatever dies.

What comes in is a list of videos, what goes out a folder of Parquet parts. The list is kept in the
folder, divided into parts; a part is written by whoever has it to do, on this host or on another
one, and always under the same name with the rows of the same videos. Nothing else here decides
that a video has one row.

    manifest -> folder (list, parts) -> part (journal, rows) -> process (Recognizer) -> rows
"""
