"""Which model another one was made from, by small sketches of the weights; files are read, nothing is loaded.

``sketch`` turns a checked model folder into some thousand numbers, ``index`` keeps them, ``compare`` says
which known model is nearest and which layers were changed.
"""
