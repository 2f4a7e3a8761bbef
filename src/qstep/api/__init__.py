"""The commands' functions for tables in memory. `qstep` exports them.

responses  the responses in a table
rows       grades, scores and labels the rows of a table
choosing   how often a best-of-n choice is right
training   trains a model on rows
"""
