"""The same work in many pieces: audits of many suspects, and features shard by shard.

A piece depends on its input alone, is written under a temporary name and renamed, and is noted with the
hashes of what went in and what came out, so that a run that was killed goes on, here or on other machines.
"""
