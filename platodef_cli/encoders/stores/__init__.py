"""Models in object stores (``s3://``, ``gs://``) and in MLflow's registry (``models:/name/version``).

``address`` parses, ``buckets`` and ``registry`` list a model's files and give their bytes, ``fetch`` keeps
the files that a load reads in a cache on this machine. What lies there is a folder like any other to all
checks.
"""
