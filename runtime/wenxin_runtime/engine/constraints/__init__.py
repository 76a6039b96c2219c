"""What an answer is bound to, and how: the implementations behind `engine.constraint`.

answer      all that binds one answer, as one mask
following   a grammar and where the answer stands in it
bad_words   sequences that the answer never completes
thinking    what comes before the answer, and its budget
factory     a request to its constraint; grammars are compiled beside the engine's loop
"""
