"""The zoo: clean, derived and backdoored encoders with ground-truth cards.

How one is built, in the order of the files:

1. ``recipe``: what a zoo consists of, as data, expanded to a list of encoders, parents first.
2. ``dataset``: the labelled images, decoded once, in a part to train on and a part to measure on.
3. ``networks``: the architectures. ``objectives`` and ``masked`` train clean encoders from scratch, on the
   changed images of ``augment``, in the loop of ``training``; ``derivatives`` makes benign descendants, and
   :mod:`platodef_cli.bench.attacks` plants the backdoors.
4. ``making``: one encoder, in a folder that appears only when it is whole, and what was measured on it:
   its ``card``.
5. ``build``: the whole zoo, one process per core, finished encoders never again; ``manifest`` opens it.
6. ``hub``: a zoo as a repository of a model hub, laid out and read back.
"""
