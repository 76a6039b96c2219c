"""Answers to repeated prompts, kept in Redis: what was generated once is generated no second time.

key       what makes two requests equal
entry     a generation as bytes, and back
address   where Redis is: one server, Sentinels or a cluster
store     Redis, which may be slow, down or lying, and costs no request for it
flight    one generation that several equal requests read
how       what a client is told about where its answer comes from
cache     the whole: hit, share, or generate and keep
upkeep    what is kept, counted and flushed: `wenxin-runtime cache`
"""
