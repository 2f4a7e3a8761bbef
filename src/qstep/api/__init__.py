"""What the commands do with files, done with tables in memory; `qstep` itself offers these functions.

tables    lists of dicts, `datasets.Dataset` and pandas frames, in and out
rows      grade, score and label the rows of a table
choosing  how well a choice among n responses does
"""
