"""A zoo as a repository of a model hub.

``sums`` names every file with its SHA-256 and is the only list of what belongs to the zoo; ``cards`` writes
what people read; ``export`` lays a repository out, ``fetch`` reads one back. Both fill a folder beside the
one that was asked for, which appears only when it is whole.
"""
