"""The steps of an audit, in the order of :mod:`platodef_cli.audit.run`.

``prepare`` extracts, obtains ``heads`` and calibrates the defences of ``scoring`` on the ``samples``;
``battery`` tries known triggers and controls; ``search`` looks for unknown ones; ``found`` tries what it
found; ``measure`` adds alignment, curves, ``encoder_level`` statistics and ``pictures``.
"""
