"""What the commands do with files, done with tables in memory; `qstep` itself offers these functions.

responses  the responses in a table
rows       grades, scores and labels the rows of a table
choosing   how often the chosen one of n responses is right
"""
