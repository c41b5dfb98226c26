"""Training: ``command`` reads the options of ``config``; ``run`` builds, trains and reports.

Nothing is imported here: the command lines answer ``--help`` before torch is imported.
"""
